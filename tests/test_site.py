"""The pages: links lead somewhere, their code runs, and the site is built strictly and stands alone."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from browser import browser, needs_chromium, requests_of
from conftest import HF_SMALL

import sparsight
from sparsight import families
from sparsight.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PACKAGES = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python")


def code_of(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def anchors(page):
    """The names that the headings of a page have, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = page.parent / unquote(parts.path) if parts.path else page
        assert target.is_file(), link
        assert not parts.fragment or parts.fragment in anchors(target), link


def test_the_readme_names_both_commands_and_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "    make demo " in text
    assert "    make test " in text
    assert ".ci/run" in text
    assert len(text.splitlines()) < 120  # what is longer than two screens belongs into docs/


def test_the_code_of_the_page_of_extensions_runs(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES)
    monkeypatch.setattr("sparsight.methods.METHODS", METHODS)
    found, method, host, family = {"__name__": "page"}, *code_of("extend.md")
    try:
        exec(method, found)
        config, model = found["Thinning"](min_tokens=0, step=1), found["model"]
        picture, dense = torch.randn(1, 3, 64, 96), None
        with torch.no_grad():
            dense = model.forward_features(picture)
            with sparsight.sparse(model, config):  # all tokens go through: the dense model
                assert torch.equal(model.forward_features(picture), dense)
            with sparsight.sparse(model, found["Thinning"](min_tokens=0, step=3)):
                assert not torch.equal(model.forward_features(picture), dense)
    finally:
        METHODS.pop("thinning", None)
    exec(host, found)
    exec(family, found)
    assert families.family_named("ours") is found["OURS"]
    assert "early-exit.1.map.3" in found["plan"].weights
    for code in (method, family):
        assert sum(bool(line.strip()) for line in code.splitlines()) <= 36  # thirty or so


def test_a_pipeline_and_a_feature_extractor_run_as_the_page_shows(monkeypatch):
    """Small random models stand for those that the page names."""
    import timm
    import transformers
    from PIL import Image

    pipeline, extractor = code_of("libraries.md")
    small = transformers.Dinov2Config(**HF_SMALL | {"patch_size": 28, "image_size": 224})
    monkeypatch.setattr(
        transformers.AutoModel, "from_pretrained", lambda name: transformers.Dinov2Model(small)
    )
    monkeypatch.setattr(
        transformers.AutoImageProcessor, "from_pretrained",
        lambda name, **changes: transformers.BitImageProcessor(**changes),
    )  # fmt: skip
    found = {"picture": Image.effect_noise((90, 70), 60).convert("RGB")}
    exec(pipeline, found)
    assert found["dense"].shape == found["sparse"].shape == (1, 37 * 37 + 1, 48)
    assert not torch.equal(found["dense"], found["sparse"])

    real, changes = timm.create_model, {"embed_dim": 48, "num_heads": 3, "patch_size": 28}
    monkeypatch.setattr(
        timm, "create_model", lambda name, **own: real(name, **own | changes | {"pretrained": False})
    )
    found["pictures"] = [torch.randn(3, 1036, 1036) for _ in range(2)]
    exec(extractor, found)
    assert [tuple(one.shape) for one in found["maps"]] == [(1, 48, 37, 37)] * 4
    assert set(found["plan"].methods[0].taps) == {2, 5, 8}


class Outward(HTMLParser):
    """What a page loads, and where it leads."""

    def __init__(self):
        super().__init__()
        self.loads, self.links, self.names = [], [], set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given.get("id"), given.get("name")}
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in PACKAGES:
        pytest.importorskip(package, reason=f"missing: {package} (pip install 'sparsight[docs]')")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    words = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=words)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_stands_alone_and_has_no_dead_link(site):
    pages = {}
    for page in site.rglob("*.html"):
        pages[page] = Outward()
        pages[page].feed(page.read_text(encoding="utf-8"))
    for page, seen in pages.items():
        if page.name == "404.html":
            continue
        for address in seen.loads:
            parts = urlsplit(address)
            assert parts.scheme in ("", "data"), f"{page.name} loads {address}"
            assert not parts.netloc
            assert parts.scheme or (page.parent / unquote(parts.path)).is_file(), address
        for address in seen.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                assert parts.scheme == "https", address
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.is_file(), f"{page.name} leads to {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].names, f"{page.name}: {address}"
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8")


def test_the_search_finds_each_verb_method_and_family(site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    text = {entry["location"]: entry["title"] + " " + entry["text"] for entry in index["docs"]}
    whole = " ".join(text.values())
    from sparsight.cli import app

    verbs = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(verbs) > 12
    for verb in verbs:
        assert f"verbs.html#{verb.replace('_', '-')}" in text
    for name in (*METHODS, *(family.name for family in families.FAMILIES), *sparsight.__all__):
        assert name in whole
    for name in sparsight.__all__:
        assert f"api.html#sparsight.{name}" in text, name


@needs_chromium
@pytest.mark.parametrize("width", [390, 1600])
def test_the_search_works_from_the_disk(site, width):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with browser(width) as driver:
        driver.get((site / "index.html").as_uri())
        assert driver.execute_script("return document.body.scrollWidth") <= width
        if width < 500:  # on a phone it opens by a sign
            driver.find_element(By.CSS_SELECTOR, "label[for=__search].md-header__button").click()
        box = driver.find_element(By.CSS_SELECTOR, ".md-search__input")
        WebDriverWait(driver, 30).until(lambda _: box.is_displayed())
        box.send_keys("neighbours")
        results = (By.CSS_SELECTOR, ".md-search-result__item a")
        links = WebDriverWait(driver, 30).until(lambda d: d.find_elements(*results))
        assert any("verbs.html" in link.get_attribute("href") for link in links)
        assert all(url.startswith(("file:", "data:")) for url in requests_of(driver))
