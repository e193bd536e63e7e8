"""The page in a real browser: the sentence, a recording, both spectrograms, keys, errors."""

from __future__ import annotations

import base64
import time
from functools import cache
from pathlib import Path

import browser
import cases
import numpy as np
import pytest
import recordings
from serving import Running, recording, running, until

from wavernn_fast import voices
from wavernn_fast.config import MelConfig
from wavernn_fast.features import log_mel
from wavernn_fast.presets import PRESETS
from wavernn_fast.vocoder import Vocoder

pytestmark = pytest.mark.slow

STATE = "document.body && document.body.dataset.state"
# Share of the plot of a canvas that is not the darkest colour: 0 where nothing is drawn.
LIT = """(() => {
  const canvas = document.getElementById(%r), g = canvas.getContext("2d");
  const { data } = g.getImageData(50 * canvas.width / canvas.clientWidth, 12,
    canvas.width * 0.8, canvas.height * 0.7);
  let lit = 0;
  for (let i = 0; i < data.length; i += 4) lit += data[i] > 60;
  return lit / (data.length / 4);
})()"""


@pytest.fixture(scope="module")
def server():
    with running(voice_of_the_package(), voice=voices.DEFAULT) as found:
        yield found


@cache
def voice_of_the_package() -> Vocoder:
    """Quick, and on one thread: the browser needs the other one."""
    return Vocoder.from_pretrained(voices.DEFAULT, dtype="int8", cpu_threads=1)


@pytest.fixture(scope="module")
def page(server: Running):
    with browser.page() as found:
        yield found


@pytest.fixture
def fresh(page: browser.Page, server: Running) -> browser.Page:
    page.console.clear()
    page.look(1280, dark=False)
    page.open(server.url)
    page.wait(f"{STATE} === 'idle'")
    return page


def text(page: browser.Page, name: str) -> str:
    return page.value(f"document.getElementById({name!r}).textContent")


def drop(page: browser.Page, data: bytes, name: str) -> None:
    """Drop a file on the page, as a visitor does."""
    code = base64.b64encode(data).decode()
    page.value(f"""(() => {{
      const bytes = Uint8Array.from(atob({code!r}), c => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], {name!r}));
      document.getElementById("drop").dispatchEvent(
        new DragEvent("drop", {{ dataTransfer: transfer, bubbles: true, cancelable: true }}));
    }})()""")


def finished(page: browser.Page) -> str:
    page.wait(f"['done', 'failed'].includes({STATE})")
    return page.value(STATE)


def test_the_sentence_is_spoken_and_both_spectrograms_are_drawn(
    fresh: browser.Page, tmp_path: Path
):
    fresh.value("document.getElementById('seed').value = '7'")
    fresh.value("document.getElementById('sentence').click()")
    assert finished(fresh) == "done", text(fresh, "status")
    found = np.array(fresh.value("Array.from(join(run.chunks))"), np.float32)
    voc, mel = voice_of_the_package(), voices.mel(voices.DEFAULT)
    expected = voc.generate(mel, seed=7, temperature=0.8)  # the card's temperature
    assert found.tobytes() == expected.tobytes()
    time.sleep(0.3)  # the last picture
    assert fresh.value(LIT % "in") > 0.2
    assert fresh.value(LIT % "out") > 0.2
    assert 0 < float(text(fresh, "rtf")) < 100
    assert text(fresh, "first").endswith(" ms")
    assert text(fresh, "made") == "3.35 s"
    assert fresh.value("document.getElementById('save').disabled") is False
    assert fresh.value("playing.length > 0 || follow === null")
    for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
        fresh.look(width, dark)
        fresh.wait(f"document.getElementById('in').clientWidth < {width}")
        time.sleep(0.3)
        assert fresh.value("document.documentElement.scrollWidth <= innerWidth"), "it overflows"
        shot = fresh.screenshot(tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png")
        assert len(shot) > 20_000
    assert fresh.console == []


def in_db(values: np.ndarray, mel: MelConfig) -> np.ndarray:
    """Undo the scale of a convention: dB of every value."""
    unit = {"ln": 20 / np.log(10), "log10": 20.0, "db": 1.0}[mel.log] / mel.power
    return unit * ((values.astype(np.float64) - mel.offset) / mel.scale + mel.ref_db)


def compare(page: browser.Page, mel: MelConfig) -> None:
    """Drop a recording; the picture of it must be what `features.log_mel` makes of it."""
    wave = recordings.tone(0.5, rate=mel.sample_rate).astype(np.float32)
    values = log_mel(wave, mel)
    expected = in_db(values, mel)
    drop(page, recording(wave, mel.sample_rate, subtype="FLOAT"), "tone.wav")
    assert finished(page) == "done", text(page, "status")
    found = np.array(page.value("pictures.in.frames")).T
    assert found.shape == expected.shape
    edge = mel.n_fft // mel.hop_length  # the page does not reflect at the ends
    inside = slice(edge, expected.shape[1] - edge - 1)
    low, high = mel.clip or (-np.inf, np.inf)  # the page does not clip
    heard = (values > low + 0.02) & (values < high - 0.02)
    heard, difference = heard[:, inside], np.abs(found[:, inside] - expected[:, inside])
    assert heard.mean() > 0.2
    assert difference[heard].max() < 0.1
    spoken = np.array(page.value("Array.from(join(run.chunks))"), np.float32)
    out = np.array(page.value("pictures.out.frames")).T  # made piece by piece as audio came
    again = np.array(page.value("(() => { const w = join(run.chunks), f = [];"
        "for (let n = 0; isFrame(n, w.length); n++) f.push(melFrame(w, centreOf(n)));"
        "return f; })()")).T  # fmt: skip
    assert spoken.size > 0
    assert np.array_equal(out, again)


def test_the_spectrogram_of_the_page_is_that_of_the_model(fresh: browser.Page):
    mel = voice_of_the_package().config.mel
    compare(fresh, mel)
    sentence = fresh.value("""fetch("/v1/sentence").then(r => r.arrayBuffer())
      .then(b => fromMel(readNpy(b)))""")
    assert np.allclose(np.array(sentence).T, in_db(voices.mel(voices.DEFAULT), mel), atol=1e-3)


@pytest.mark.parametrize("preset", ["fatchord-raw9", "rtvc", "univoc-v0.2", "gibiansky"])
def test_every_convention_is_drawn_as_it_is_meant(page: browser.Page, preset: str):
    mel = PRESETS[preset].mel
    config = cases.dual_config(
        32, 16, n_mels=mel.n_mels, hop_length=mel.hop_length, sample_rate=mel.sample_rate, mel=mel,
        upsample_left=1, upsample_right=2,
    )  # fmt: skip
    with running(Vocoder(config, cases.random_tensors(config), cpu_threads=1)) as server:
        page.console.clear()
        page.open(server.url)
        page.wait(f"{STATE} === 'idle'")
        assert page.value("document.getElementById('sentence').hidden")
        compare(page, mel)
        assert page.console == []


def test_it_can_be_used_by_keys_alone(fresh: browser.Page, server: Running):
    seen = []
    for _ in range(8):
        fresh.press("Tab", 9)
        seen.append(fresh.value("document.activeElement.id"))
        if seen[-1] == "sentence":
            break
    assert seen[0] == "file"
    fresh.press("Enter", 13, "\r")
    fresh.wait(f"{STATE} !== 'idle'")
    assert finished(fresh) == "done"


def test_errors_are_sentences(fresh: browser.Page, server: Running):
    drop(fresh, b"this is no recording", "notes.txt")
    assert finished(fresh) == "failed"
    assert text(fresh, "status") == (
        "notes.txt cannot be read as a recording; choose a WAV, FLAC, OGG or MP3 file."
    )
    server.hall.inside += 1000  # as if the queue were full
    try:
        fresh.value("document.getElementById('sentence').click()")
        fresh.wait("document.getElementById('status').textContent.includes('queue is full')")
    finally:
        server.hall.inside -= 1000
    assert finished(fresh) == "failed"


def test_a_new_run_ends_the_one_before(fresh: browser.Page, server: Running):
    for _ in range(3):
        fresh.value("document.getElementById('sentence').click()")
        time.sleep(0.2)
    assert finished(fresh) == "done"
    until(lambda: server.hall.inside == 0)
    assert fresh.console == []


def test_no_browser_means_a_skip_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(browser, "NAMES", ("no-such-browser",))
    with pytest.raises(pytest.skip.Exception, match="no-such-browser"):
        browser.find()
