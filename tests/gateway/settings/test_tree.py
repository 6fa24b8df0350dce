from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.app import http_bounds, identity
from gateway.settings import Settings, SettingsError, load
from scripts.settings_table import rows

ROOT = Path(__file__).parents[3]


def file_with(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sluice.yaml"
    path.write_text(text)
    return path


def test_flags_beat_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_with(tmp_path, "host: file\nport: 1\ndrain_timeout: 1\nhttp: {max_headers: 7}\n")
    monkeypatch.setenv("SLUICE_PORT", "2")
    monkeypatch.setenv("SLUICE_DRAIN_TIMEOUT", "2")
    monkeypatch.setenv("SLUICE_HTTP__IDLE_TIMEOUT", "5")
    settings = load(path, {"drain_timeout": 3})
    assert (settings.host, settings.port, settings.drain_timeout) == ("file", 2, 3)
    assert (settings.http.max_headers, settings.http.idle_timeout) == (7, 5)


def test_text_of_the_environment_becomes_what_vllm_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_ENGINE__MAX_MODEL_LEN", "1024")
    monkeypatch.setenv("SLUICE_ENGINE__ENFORCE_EAGER", "true")
    monkeypatch.setenv("SLUICE_ENGINE__DTYPE", "bfloat16")
    monkeypatch.setenv("SLUICE_ALLOWED_HOSTS", "a.example, b.example")
    settings = load()
    assert settings.engine == {"max_model_len": 1024, "enforce_eager": True, "dtype": "bfloat16"}
    assert settings.allowed_hosts == ["a.example", "b.example"]


def test_empty_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_API_KEY", "")
    assert load().static_key() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hots: x", "hots: unknown setting"),
        ("http: {nope: 1}", "http.nope: unknown setting"),
        ("port: many", "port"),
        ("api_key: sk-x", "use SLUICE_API_KEY or api_key_file"),
        (f"secret: {'s' * 32}", "use SLUICE_SECRET or secret_file"),
        ("redis_url: redis://:geheim@db", "use SLUICE_REDIS_URL or redis_url_file"),
        ("store: {url: 'postgresql://u:geheim@db/x'}", "use SLUICE_STORE__URL or store.url_file"),
        ("- a", "expected a mapping"),
        ("1: 2", "1: expected the name of a setting"),
        ("a: [", '(?s)in "sluice.yaml", line 1, column 5'),
        ("port: 1\nhost: x\nport: 2", "(?s)'port' stands there twice.*line 3, column 1"),
        ("http:\n  max_headers: 1\n  max_headers: 2", "(?s)'max_headers' stands there twice.*line 3, column 3"),
        ("a: [", "not YAML"),
        ("engine: {a: 1", "not YAML"),
        ("port: 1\0", "not YAML"),
        ("a: " + "[" * 5000, "nested too deeply|not YAML"),
        ("engine: &a {b: *a}", "aliases"),
        (
            "engine:\n  a0: &a0 [x, x]\n" + "".join(f"  a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            "aliases",
        ),
        ("#" * 1_100_000, "larger than"),
        ("engine: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
    ids=lambda text: text[:24],
)
def test_files_that_are_wrong_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(file_with(tmp_path, text))


def test_aliases_are_fine_as_long_as_they_stay_small(tmp_path: Path) -> None:
    assert load(file_with(tmp_path, "engine: {a: &x {max_num_seqs: 1}, b: *x}")).engine["b"] == {"max_num_seqs": 1}


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_bytes(b"port: \xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(file)


def test_a_missing_file_and_an_unknown_variable_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")
    monkeypatch.setenv("SLUICE_PROT", "1")
    with pytest.raises(SettingsError, match="SLUICE_PROT"):
        load()


def test_a_hang_takes_longer_than_an_idle_engine_is_silent() -> None:
    with pytest.raises(SettingsError, match="hang_timeout"):
        load(flags={"hang_timeout": 2.0})


def test_keys_come_from_files_too_and_are_never_printed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-from-file\n")
    settings = load(flags={"api_key_file": tmp_path / "key"})
    assert settings.static_key() == "sk-from-file"
    assert "sk-secret" not in load(flags={"api_key": "sk-secret"}).printable()
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        settings.static_key()
    with pytest.raises(SettingsError, match="api_key_file"):
        load(flags={"api_key_file": tmp_path / "none"}).static_key()


@pytest.mark.parametrize("key", ["two words", "schlüssel", "sk-x!", "=", "sk-a\nb"])
def test_a_key_that_nobody_can_send_is_refused(key: str) -> None:
    with pytest.raises(SettingsError, match="api_key: nobody can send it"):
        load(flags={"api_key": key}).static_key()


@pytest.mark.parametrize(
    "name", ["ENGINE", "JWT", "MODELS", "HTTP", "LIMITS__MODEL", "ACCESS__TRUSTED_PROXIES", "MEDIA__ALLOWED_PORTS"]
)
def test_a_variable_that_should_be_json_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SLUICE_{name}", "80, 443")
    with pytest.raises(SettingsError, match=f"^SLUICE_{name}: expected JSON"):
        load()


def test_an_engine_argument_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_ENGINE__HF_OVERRIDES", "{a: ")
    with pytest.raises(SettingsError, match=r"^engine: .*hf_overrides: neither text nor YAML"):
        load()


def test_a_list_of_hosts_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_ALLOWED_HOSTS", "[a, b")
    with pytest.raises(SettingsError, match=r"^allowed_hosts: .*names between commas"):
        load()


def test_nobody_said_who_may_come_in() -> None:
    with pytest.raises(SettingsError, match="no authentication"):
        identity(load())
    assert identity(load(flags={"allow_no_auth": True}))


@pytest.mark.parametrize(
    ("host", "hosts"),
    [
        ("127.0.0.1", ("localhost", "127.0.0.1", "[::1]", "127.0.0.1")),
        ("localhost", ("localhost", "127.0.0.1", "[::1]", "localhost")),
        ("0.0.0.0", None),
    ],
)
def test_loopback_answers_to_loopback_names_only(host: str, hosts: tuple[str, ...] | None) -> None:
    assert http_bounds(load(flags={"host": host})).allowed_hosts == hosts
    assert http_bounds(load(flags={"host": host, "allowed_hosts": ["x"]})).allowed_hosts == ("x",)


def named(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from named(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, description in named(Settings):
        assert description, name
        assert f"| `{name}` |" in page, f"{name}: run scripts/settings_table.py"
        assert description in page, f"{name}: run scripts/settings_table.py"


def test_the_tables_are_those_of_the_settings() -> None:
    """Defaults and sections inside of lists too: what the script prints stands on the page, line by line."""
    page = set((ROOT / "docs" / "configuration.md").read_text().splitlines())
    assert [row for row in rows(Settings) if row.startswith(("|", "#")) and row not in page] == []
