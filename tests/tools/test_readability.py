"""tools/docs/readability.py: what it counts, and what it refuses."""

import readability

PAGE = """# A heading of five words

Two words. This [sentence](https://a.example/page) has `one piece of code` in
it, and fourteen words, twelve lines. (Torch 2.13 is no end.)

| a head | another |
| --- | --- |
| a cell. Its second sentence | x |

```console
$ nothing of this counts
```
"""


def test_sentences_are_those_of_paragraphs_without_headings_code_and_cells():
    page = readability.read_page("a.md", PAGE)
    assert page.sentences == [
        "Two words.",
        "This sentence has code in it, and fourteen words, twelve lines.",
        "(Torch 2.13 is no end.)",
    ]
    assert page.cells == ["a head", "another", "a cell.", "Its second sentence", "x"]
    assert page.words == len(PAGE.split())
    assert page.words_a_sentence == (2 + 11 + 5) / 3
    assert page.longest == page.sentences[1]


def test_what_is_over_a_limit_is_named():
    def problems(text, name="docs/usage.md", readme_lines=150):
        return list(readability.too_much([readability.read_page(name, text)], readme_lines))

    assert problems(" ".join(["word"] * 25) + ".") == []
    (average,) = problems(" ".join(["word"] * 26) + ".")
    assert average == "docs/usage.md: 26.0 words a sentence, 25 at most"
    (cell,) = problems("| head |\n| --- |\n| " + " ".join(["word"] * 46) + " |\n")
    assert cell.startswith("docs/usage.md: a sentence of 46 words, 45 at most: word word")
    assert problems("A. " * 801, "docs/own-script.md") == [
        "docs/own-script.md: 801 words, 800 at most"
    ]
    assert problems("A. " * 901) == []
    assert problems("A. " * 45_001) == ["all pages: 45,001 words, 45,000 at most"]
    assert problems("A.", readme_lines=151) == ["README.md: 151 lines, 150 at most"]
