// Light or dark: as the system, until the button is used.

const THEMES = ["system", "light", "dark"];
const THEME_KEY = "peft_regress.theme";

function startTheme() {
  const button = document.getElementById("theme");
  let theme = storedTheme();
  const show = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    storeTheme(theme);
    show();
  });
  show();
}

// A browser may refuse storage to a file: then the choice holds until the page is closed.
function storedTheme() {
  try {
    const stored = localStorage.getItem(THEME_KEY);
    return THEMES.includes(stored) ? stored : "system";
  } catch {
    return "system";
  }
}

function storeTheme(theme) {
  try {
    localStorage.setItem(THEME_KEY, theme);
  } catch {
    // Nothing to keep it in.
  }
}
