// Names for what Material leaves without one, and tables that scroll by the keyboard too.
const label = () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, index) => {
    nav.setAttribute("aria-label", `Code block ${index + 1}`);
  });
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((table) => {
    table.tabIndex = 0;
  });
};
new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
label();
