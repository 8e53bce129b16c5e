"""tools/ci/untrusted.py: Markdown that others wrote, made safe to post."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from untrusted import defused, defused_outside_code, fit

LIVE_TEXT = re.compile(r"@\w|#\d|\bgh-\d|://|\bwww\.", re.IGNORECASE)
LIVE_TOKENS = {"link_open", "image", "html_inline", "html_block"}
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table"])
ATTACK = """
@octocat @org/team see #12 GH-3 o/r#4 https://evil.example www.evil.example ftp://x mailto:a@b.c
[click](https://evil.example) ![i](/x.png) [r] <https://evil.example> <a@b.example>
<img src=/x onerror=y> <!-- hidden <script>alert(1)</script> <a href=/x>y</a> <DETAILS onclick=x>

[r]: /x "title"
"""


def tokens(text):
    return [one for token in MARKDOWN.parse(text) for one in (token, *(token.children or ()))]


def shown(text):
    """Return the text that a reader sees, one line per piece, without code."""
    kinds = {"text", "text_special"}
    return "".join(one.content if one.type in kinds else "\n" for one in tokens(text))


@pytest.mark.parametrize("text", [ATTACK, f"```\n{ATTACK}\n```\n{ATTACK}"])
def test_a_hostile_text_makes_no_mention_and_no_link_and_hides_nothing(text):
    made = defused(text)
    assert not {one.type for one in tokens(made)} & LIVE_TOKENS
    assert not LIVE_TEXT.search(made)
    # It can still be read.
    assert "@octocat" in made.replace("\u200b", "")


@pytest.mark.parametrize(
    "line",
    [
        "| `shift/lora-r4/resnet18` | `forward_flops` | 3 | 4 | +9.9 % | 0 % | `a` aten.conv |",
        "<details><summary>18 cases more</summary>\n\n</details>",
        "```sh\npytest benchmarks -m \"case(method='dora')\"\n```",
        "peft 0.18.1 -&gt; 0.19.1; peft @ somewhere",
    ],
)
def test_the_report_s_own_text_stays_as_it_is(line):
    assert defused(line) == line


@pytest.mark.parametrize(
    "text",
    [
        "&#64;octocat", "&#x40;octocat", "&commat;octocat", "\\@octocat", "see &num;12", "&#35;12",
        "GH\\-12", "gh&#45;12", "https&colon;//evil.example", "https:\\//evil.example",
        "https:/\\/evil.example", "www\\.evil.example", "&#119;ww.evil.example",
    ],
)  # fmt: skip
def test_escapes_and_entities_are_defused_too(text):
    """GitHub finds mentions and links after it has resolved escapes and entities."""
    assert LIVE_TEXT.search(shown(text))
    assert not LIVE_TEXT.search(shown(defused(text)))


LINES = [
    *("@octocat", "", "```", "```python", "````", "  ```", "    ```", "\t```", "~~~", "> ```"),
    *("- ```", "- a", "  @octocat", "> @octocat", "<details>", "</details>", "1. ```", "``` x"),
    *("```\r@octocat", "<!--", "-->", "a | b", "- | -", "    @octocat", "```  ", "`", "[r]: /x"),
    *("# a", "===", "---"),
]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("@#<>`~ -&\n\r\0a\u200b"), max_size=40))
def test_what_is_defused_stays_as_it_is(text):
    """A draft is defused again by the job that posts it."""
    for function in (defused, defused_outside_code):
        assert function(function(text)) == function(text)


@settings(deadline=None, derandomize=True, max_examples=1000)
@given(st.lists(st.sampled_from(LINES), max_size=8))
def test_outside_code_nothing_is_live_wherever_others_see_code(lines):
    """What GitHub's parser takes for a paragraph is never what ours took for code."""
    made = defused_outside_code("\n".join(lines))
    blocks = [token.content for token in MARKDOWN.parse(made) if token.type == "html_block"]
    assert "@octocat" not in shown(made) + "".join(blocks)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("@#<>[](): !-/wW.ghGH1a`~\n\\&;\0\u200b"), max_size=40))
def test_any_text_is_defused_and_reads_as_before(text):
    made = defused(text)
    assert made.replace("\u200b", "") == text.replace("\0", "").replace("\u200b", "")
    assert not re.search(r"@\w|#\d|\bgh-\d|://|\bwww\.|\]\(", made, re.IGNORECASE)
    assert not LIVE_TEXT.search(shown(made))
    assert not {one.type for one in tokens(made)} & LIVE_TOKENS


def test_code_stays_fit_to_be_copied():
    code = "```python\n@torch.no_grad()\ndef f(): ...\n```"
    sly = "<details>\n```\n@octocat\n```\n\n~~~\n@octocat\n~~~\n> ```\n\n   ```\n@octocat\n"
    made = defused_outside_code(f"## head\n\n{code}\n\n{sly}")
    assert code in made
    assert "@octocat" not in made


@pytest.mark.parametrize("rest", ["é" * 5000, "a\n" * 2500, "```python\n" + "code\n" * 1000])
def test_a_cut_keeps_the_headline_and_closes_code(rest):
    cut = fit(f"# headline\n\n{rest}", longest=1000)
    assert len(cut) <= 1000
    assert cut.startswith("# headline\n")
    assert cut.count("```") % 2 == 0
    assert "\n\nCut: GitHub takes" in cut
    assert fit("x" * 1000, longest=1000) == "x" * 1000
    assert fit("x" * 2000, longest=1000).startswith("x" * 800)
