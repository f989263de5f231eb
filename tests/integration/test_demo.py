"""The demo as its users meet it: the page in a real browser, the command as a real process."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, redirect_stderr
from types import SimpleNamespace

import pytest

from browser import open_chromium, watched
from gate import Gate

pytestmark = pytest.mark.slow

COMMAND = """
import signal, sys
from studies.cli import main

# What a shell starts in the background, these tests perhaps, ignores Ctrl-C, and its children with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""

HOSTILE = (
    "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\"> "
    "'\"></div><b onmouseover=alert(1)>${document.title='pwned'} {{value}} `x`"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The shipped model as ``bittaper demo`` prepares it at its first start: its cache, and what it printed."""
    from studies.demo.model import prepare_model

    cache, said = tmp_path_factory.mktemp("demo") / "cache", io.StringIO()
    with redirect_stderr(said):
        model = prepare_model(None, cache, "cpu")
    return cache, model, said.getvalue()


@pytest.fixture(scope="module")
def served(prepared):
    """The page, its address, and the gate before its model; the server talks to this machine only."""
    from studies.demo.conversation import Engine
    from studies.demo.server import HOST, choose_port, close, launch, load_gradio

    called = []
    connect = socket.socket.connect

    def record(self, address):
        called.append(address[0] if isinstance(address, tuple) else address)
        return connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", record)
    load_gradio()
    engine = Engine(prepared[1])
    gate = Gate()
    engine.model.lm.model.register_forward_pre_hook(gate.wait)
    port = choose_port(None)
    page = launch(engine, "pmpd-4k", port)
    yield page, f"http://{HOST}:{port}", gate
    gate.open()
    close(page)
    patch.undo()
    assert called  # gradio asks its own address at the start
    assert [address for address in called if not address.startswith("127.")] == []


@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def open_tab(served, chromium):
    """Opens tabs; whatever a test does, no tab asks another machine for anything or writes an error to its console."""
    _, address, gate = served
    with watched(chromium) as watch:

        def open_one():
            tab = watch.open(address)
            tab.wait_for_selector("#prompt textarea")
            return tab

        yield open_one
        gate.open()
    assert watch.requests
    assert watch.foreign(address) == []
    assert watch.complaints == []


def ask(tab, prompt: str, *, rival: str = "nothing", tokens: int = 12) -> None:
    tab.fill("#rival input", rival)
    tab.press("#rival input", "Enter")
    tab.fill("#max-new-tokens input[type=number]", str(tokens))
    tab.press("#max-new-tokens input[type=number]", "Enter")
    tab.fill("#prompt textarea", prompt)
    tab.click("#send")


def texts(tab) -> list[str]:
    """What every reply says, without the labels of its runs."""
    read = "all => all.map(one => [...one.querySelectorAll('span[title]')].map(word => word.textContent).join(''))"
    return tab.eval_on_selector_all(".bt-tokens", read)


def prompts(served) -> list[str]:
    return list(served[0].engine.model.references)


def expected(served, prompt: str, label: str, tokens: int) -> str:
    """What the model says without a page; it has one width at a time, so a reply of another tab is awaited."""
    from accuracy.decoding import Decoder, Prompt, TokenStream
    from accuracy.schedulers import StaticScheduler
    from hwsim.trace import Schedule

    model = served[0].engine.model
    scheduler = StaticScheduler(Schedule.from_label(label))
    with TokenStream(Decoder(model.lm), Prompt("a", model.encode(prompt), tokens), scheduler) as stream:
        return "".join(token.text for token in stream).strip()


def test_tokens_stream_in_the_colours_of_their_bits_beside_a_rival_and_the_npu(served, open_tab):
    _, _, gate = served
    first, *_ = prompts(served)
    mixed, high = expected(served, first, "p4:4>2@20", 26), expected(served, first, "p4:4", 26)
    tab = open_tab()
    gate.shut()
    ask(tab, first, rival="High", tokens=26)
    gate.let(3)
    tab.wait_for_function("document.querySelectorAll('.bt-tokens span[title]').length == 3")
    assert tab.get_attribute(".bt-reply", "data-state") == "decoding"
    assert mixed.startswith(texts(tab)[0].strip())
    gate.open()
    tab.wait_for_selector("#step img")
    assert [text.strip() for text in texts(tab)] == [mixed, high]
    colours = {
        bits: tab.eval_on_selector(f".bt-tokens .bt-w{bits}", "one => getComputedStyle(one).borderBottomColor")
        for bits in (4, 2)
    }
    assert colours == {4: "rgb(0, 158, 115)", 2: "rgb(0, 114, 178)"}
    assert tab.inner_text(".bt-reply >> nth=0 >> .bt-w2 >> sup") == "2"
    assert "2 bits" in tab.get_attribute(".bt-reply >> nth=0 >> .bt-w2 >> span[title] >> nth=0", "title")
    assert "tokens/s" in tab.inner_text(".bt-reply >> nth=0 >> .bt-metrics")
    assert tab.inner_text(".bt-switch") == "Decoded at 4 bits, switched to 2 at decode step 20."
    before = tab.inner_text("#numbers")
    assert "Simulated on pmpd-4k, not measured" in before
    tab.click("#npu input")
    tab.click("[role=option]:has-text('pmpd-16k')")
    tab.wait_for_selector("#numbers:has-text('Simulated on pmpd-16k')")


def test_stop_ends_it_at_once_and_clear_empties_the_page(served, open_tab):
    page, _, gate = served
    tab = open_tab()
    gate.shut()
    ask(tab, prompts(served)[0])
    gate.let(2)
    tab.wait_for_function("document.querySelectorAll('.bt-tokens span[title]').length == 2")
    tab.click("#stop")
    time.sleep(0.5)
    gate.let(1)
    tab.wait_for_selector(".bt-reply[data-state=stopped]")
    assert not page.engine.model.lm.lock.locked()
    assert tab.locator(".bt-tokens span[title]").count() == 2
    tab.wait_for_selector("#step img")
    gate.open()
    tab.click("#clear")
    tab.wait_for_selector("#transcript .bt-empty")
    assert tab.locator("#step img").count() == 0
    assert tab.input_value("#prompt textarea") == ""
    ask(tab, prompts(served)[1])
    tab.wait_for_selector(".bt-reply[data-state=complete]")


def test_send_is_off_and_says_why_for_as_long_as_the_tab_is_answered(served, open_tab):
    _, _, gate = served
    first, second, *_ = prompts(served)
    tab = open_tab()
    assert tab.inner_text("#busy").strip() == ""
    gate.shut()
    ask(tab, first, rival="High")
    gate.let(2)
    tab.wait_for_function("document.querySelectorAll('.bt-tokens span[title]').length == 2")
    assert tab.inner_text("#busy") == "Answering. Send is off until the answer has ended; Stop ends it now."
    assert tab.is_disabled("#send") and tab.is_enabled("#stop") and tab.is_enabled("#clear")
    tab.fill("#prompt textarea", second)
    tab.press("#prompt textarea", "Shift+Enter")  # the other way to send
    tab.click("#send", force=True)
    gate.open()
    tab.wait_for_selector(".bt-reply[data-state=complete] >> nth=1")
    tab.wait_for_selector("#send:enabled")
    assert tab.inner_text("#busy").strip() == ""
    assert tab.locator(".bt-turn").count() == 1
    assert tab.input_value("#prompt textarea") == second  # nothing that was typed is lost
    tab.press("#prompt textarea", "Shift+Enter")
    tab.wait_for_selector(".bt-turn >> nth=1 >> .bt-reply[data-state=complete] >> nth=1")


def test_a_tab_that_waits_for_another_says_so_and_can_take_its_prompt_back(served, open_tab):
    _, _, gate = served
    one, two, *_ = prompts(served)
    first, second = open_tab(), open_tab()
    gate.shut()
    ask(first, one)
    gate.let(1)
    first.wait_for_function("document.querySelectorAll('.bt-tokens span[title]').length == 1")
    ask(second, two)
    second.wait_for_selector("#busy:has-text('The model is answering another tab first.')")
    assert second.is_disabled("#send")
    assert first.inner_text("#busy").startswith("Answering.")
    second.click("#stop")
    second.wait_for_selector(".bt-reply[data-state=stopped]")
    second.wait_for_selector("#send:enabled")
    assert first.is_disabled("#send")
    ask(second, two)
    second.wait_for_selector("#busy:has-text('another tab')")
    gate.open()
    for tab in (first, second):
        tab.wait_for_selector(".bt-reply[data-state=complete]")
        tab.wait_for_selector("#send:enabled")
        assert tab.inner_text("#busy").strip() == ""


def test_clear_in_mid_answer_gives_send_back(served, open_tab):
    _, _, gate = served
    tab = open_tab()
    gate.shut()
    ask(tab, prompts(served)[0])
    gate.let(1)
    tab.wait_for_function("document.querySelectorAll('.bt-tokens span[title]').length == 1")
    tab.click("#clear")
    tab.wait_for_selector("#transcript .bt-empty")
    tab.wait_for_selector("#send:enabled")
    gate.open()
    tab.wait_for_timeout(500)  # nothing that is still on its way turns it off again
    assert tab.is_enabled("#send") and tab.inner_text("#busy").strip() == ""
    ask(tab, prompts(served)[1])
    tab.wait_for_selector(".bt-reply[data-state=complete]")
    assert tab.locator(".bt-turn").count() == 1


def test_two_tabs_do_not_mix_and_a_closed_one_gives_the_model_back(served, open_tab):
    page, _, gate = served
    one, two, *_ = prompts(served)
    first, second, third = open_tab(), open_tab(), open_tab()
    gate.shut()
    ask(first, one)
    gate.let(1)
    first.wait_for_function("document.querySelectorAll('.bt-tokens span[title]').length == 1")
    ask(second, two)
    second.wait_for_selector(".bt-reply[data-state=waiting]")
    gate.open()
    for tab, prompt in ((first, one), (second, two)):
        tab.wait_for_selector(".bt-reply[data-state=complete]")
        assert tab.inner_text(".bt-prompt").endswith(prompt)
        assert texts(tab)[0].strip() == expected(served, prompt, "p4:4>2@20", 12)
    gate.shut()
    ask(third, one)
    gate.let(1)
    third.wait_for_function("document.querySelectorAll('.bt-tokens span[title]').length == 1")
    assert page.engine.model.lm.lock.locked()
    open_tabs = len(page.tabs)
    third.close()
    deadline = time.monotonic() + 60
    while len(page.tabs) == open_tabs and time.monotonic() < deadline:
        first.wait_for_timeout(200)
    gate.let(1)
    assert page.engine.model.lm.lock.acquire(timeout=60)
    page.engine.model.lm.lock.release()
    assert len(page.tabs) == open_tabs - 1


def test_what_comes_late_from_a_closed_tab_opens_no_conversation(served):
    from studies.demo.page import NOTHING_YET

    page, _, _ = served
    before, gone = len(page.tabs), SimpleNamespace(session_hash="gone")
    assert [numbers for numbers, _ in page.simulate("pmpd-4k", "same model", gone)] == [NOTHING_YET]
    page.stop(gone)
    page.clear(gone)
    page.leave(gone)
    assert len(page.tabs) == before


def test_learned_comes_with_the_shipped_model_and_its_choice_is_shown(served, open_tab):
    from studies.demo.npu import replay

    page, _, _ = served
    prompt = prompts(served)[0]
    tab = open_tab()
    tab.click("#scheduler label:has-text('Learned')")
    ask(tab, prompt, tokens=96)
    tab.wait_for_selector(".bt-reply[data-state=complete]")
    (conversation,) = [one for one in page.tabs if one.turns and one.turns[-1].replies[0].title == "PMPD, Learned"]
    (reply,) = conversation.turns[-1].replies
    assert reply.schedule.label() in {"p4:2", "p4:4>2@32", "p4:4>2@63", "p4:4"}
    assert list(reply.decode_weight_bits) == reply.schedule.expand(len(reply.decode_weight_bits))
    assert tab.inner_text(".bt-reply header") == f"PMPD, Learned {reply.schedule.label()}"
    assert tab.inner_text(".bt-switch").endswith("Chosen for this prompt.")
    tab.wait_for_selector("#step img")
    (simulated,) = replay(page.engine.model, conversation.turns[-1], "pmpd-4k").replays
    assert (simulated.result.columns.step == -2).sum() == 1  # the scheduler's own run, behind the prefill


def test_nothing_sticks_out_and_no_choice_wraps_from_a_phone_to_a_wide_screen(open_tab):
    tab = open_tab()
    for width in (390, 800, 1280, 1440):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        for group in ("#precision", "#scheduler"):
            rows = "all => new Set(all.map(one => Math.round(one.getBoundingClientRect().top))).size"
            assert tab.eval_on_selector_all(f"{group} .wrap label", rows) == 1, (width, group)


def test_markup_in_a_prompt_is_shown_and_never_run(served, open_tab):
    tab = open_tab()
    ask(tab, HOSTILE)
    tab.wait_for_selector(".bt-reply[data-state=complete]")
    assert tab.inner_text(".bt-prompt").endswith(HOSTILE)
    assert tab.locator("#transcript :is(script, img, iframe, b[onmouseover])").count() == 0
    tab.wait_for_timeout(300)
    assert tab.title() == "bittaper demo"


def test_no_file_of_another_site_is_kept(served):
    _, address, _ = served
    body = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\nab\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Origin": "http://example.org"}
    request = urllib.request.Request(f"{address}/gradio_api/upload", body.encode(), headers)
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)


def test_what_cannot_run_is_said_on_the_page(served, open_tab):
    tab = open_tab()
    for prompt, rival, said in (
        ("", "High", "prompt: empty"),
        ("you take " * 400, "High", "holds at most 512; shorten the prompt or lower max_new_tokens"),
        ("you", "p4:1", "weight_bits = 1: not stored"),
        ("you", "<b>high</b>", "schedule '<b>high</b>': must look like"),
    ):
        ask(tab, prompt, rival=rival)
        tab.wait_for_function(
            "said => document.querySelector('.bt-turn:last-child .bt-error')?.textContent.includes(said)", arg=said
        )
    ask(tab, prompts(served)[0], rival="High")
    tab.wait_for_selector(".bt-turn:last-child .bt-reply[data-state=complete] >> nth=1")
    tab.wait_for_function("document.querySelectorAll('.bt-turn').length == 5")
    below = "one => one.closest('.html-container').getBoundingClientRect().bottom - one.getBoundingClientRect().bottom"
    assert tab.eval_on_selector(".bt-turn:last-child", below) > -2  # the newest turn is in view


def demo(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, "demo", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


@contextmanager
def ended(process: subprocess.Popen[str]):
    """Ends a process however its test goes."""
    with process:
        try:
            yield
        finally:
            process.kill()


def test_ctrl_c_ends_the_demo_with_130_and_frees_the_port(prepared):
    from studies.demo.server import choose_port

    port = choose_port(None)
    process = demo("--cache", str(prepared[0]), "--port", str(port))
    with ended(process):
        assert process.stdout is not None
        assert process.stdout.readline() == f"bittaper demo: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        with pytest.raises(OSError, match="refused|unreachable|Connection|assigned"):
            # Only this machine is listened to: any other of its addresses refuses.
            socket.create_connection(("127.0.0.2", port), timeout=5)
        taken = demo("--cache", str(prepared[0]), "--port", str(port))
        _, error = taken.communicate(timeout=120)
        assert taken.returncode == 2
        assert error.startswith(f"bittaper: error: --port {port}: is in use; --port ")
        assert error.count("\n") == 1
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130
        assert error.startswith("bittaper: interrupted")
    assert choose_port(port) == port


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no/such/model"], "no/such/model: no such folder"),
        (["--cache", "README.md/cache"], "--cache README.md/cache: cannot be written"),
        (["--npu", "pmpd-5k"], "unknown NPU 'pmpd-5k'"),
        (["--port", "70000"], "--port 70000: must be 1..65535"),
        (["--device", "cuda:9"], "--device cuda:9"),
    ],
)
def test_what_cannot_start_is_one_line(arguments, said, capsys):
    from studies import cli

    assert cli.main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_that_holds_no_model_is_one_line(tmp_path, capsys):
    from studies import cli

    (tmp_path / "config.json").write_text("{}")
    assert cli.main(["demo", "--model", str(tmp_path), "--cache", str(tmp_path / "cache")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bittaper: error: ")
    assert error.count("\n") == 1


def test_a_checkpoint_that_is_none_is_one_line(prepared, capsys):
    from studies import cli

    assert cli.main(["demo", "--cache", str(prepared[0]), "--checkpoint", "README.md"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bittaper: error: README.md: is cut or no safetensors file (")
    assert error.count("\n") == 1


def test_the_shipped_model_is_quantised_once_and_then_loaded(prepared, capsys):
    from studies.demo.model import prepare_model

    cache, first, said = prepared
    assert "quantising selvic-llama into" in said
    (store,) = cache.iterdir()
    made = store.stat().st_mtime_ns
    again = prepare_model(None, cache, "cpu")
    assert capsys.readouterr().err == ""
    assert (again.lm.store_sha256, store.stat().st_mtime_ns) == (first.lm.store_sha256, made)
    assert (again.kind, len(again.references)) == ("shipped", 6)
