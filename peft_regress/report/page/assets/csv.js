// Cases as a CSV file by RFC 4180, made here and handed to the browser: no request is made.

// Where a spreadsheet sees a formula begin, full-width forms included; some split rows at semicolons.
const FORMULA = /(^|;)( *)(?=[-=+@\t\r＝＋－＠])/g;

// Numbers are exact and unscaled, under the names of their metrics.
function casesAsCsv(cases) {
  const columns = [
    ...CASE_COLUMNS.filter((column) => column.name !== "status"),
    { name: "status", key: statusOf },
    { name: "verdict", key: (item) => item.verdict ?? null },
  ];
  const header = columns.map((column) => column.name);
  const rows = cases.map((item) => columns.map((column) => column.key(item)));
  return [header, ...rows].map((row) => `${row.map(csvCell).join(",")}\r\n`).join("");
}

function csvCell(value) {
  if (value === null) return "";
  if (typeof value === "number") return String(value);
  const text = value.toWellFormed().replace(FORMULA, "$1$2'");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
