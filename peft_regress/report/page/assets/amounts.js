// Amounts as budgets have them: "64MiB", "0.5 GB", "2 GFLOP". See peft_regress/project/budgets.py.

const AMOUNT = /^\s*(\d{1,15}(?:\.\d{1,15})?(?:[eE]\d{1,3})?)\s*([A-Za-z]+)\s*$/;
const BARE_NUMBER = /^\s*\d{1,15}(\.\d{1,15})?\s*$/;
const LONGEST_AMOUNT = 40;

// In bytes or FLOPs; null if the text is no amount above 0. A bare number counts `bareUnit`.
function readAmount(text, quantity, bareUnit) {
  if (text.length > LONGEST_AMOUNT) return null;
  const units = DATA.units[quantity];
  const spelled = BARE_NUMBER.test(text) ? `${text} ${bareUnit}` : text;
  const match = AMOUNT.exec(spelled);
  if (match === null || !Object.hasOwn(units, match[2])) return null;
  const amount = Math.round(Number(match[1]) * units[match[2]]);
  return amount > 0 && Number.isFinite(amount) ? amount : null;
}

function amountProblem(text, quantity, bareUnit, example) {
  if (text.trim() === "" || readAmount(text, quantity, bareUnit) !== null) return "";
  const units = Object.keys(DATA.units[quantity]).join(", ");
  return (
    `"${shorten(text, 20)}" is not an amount above 0: type a number with one of ${units}, ` +
    `such as ${example}. Without a unit it counts ${bareUnit}.`
  );
}
