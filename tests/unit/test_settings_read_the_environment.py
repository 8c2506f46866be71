"""Each limit is an environment variable; a malformed one is refused by name."""

from __future__ import annotations

import pytest

from florence2_sam2.server.settings import PREFIX, Settings, options


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({PREFIX + "MAX_PIXELS": "  ", "UNRELATED": "1"}) == Settings()


def test_values_of_every_kind_are_read() -> None:
    settings = Settings.from_environment(
        {
            PREFIX + "MAX_PIXELS": "1000",
            PREFIX + "URL_CONNECT_SECONDS": "0.5",
            PREFIX + "URLS_ENABLED": "False",
            PREFIX + "OVERLAP_SAM2": "on",
            PREFIX + "URL_ALLOW": "Store.internal:9000, [::1]:80",
            PREFIX + "URL_PORTS": "80,8443",
            PREFIX + "STORE_URL": "s3://bucket/Prefix",
            PREFIX + "FLORENCE2": "florence-community/Florence-2-base-ft@main",
            PREFIX + "DECODER_WEIGHTS": "int8",
        }
    )
    assert settings.max_pixels == 1000
    assert settings.url_connect_seconds == 0.5
    assert settings.urls_enabled is False
    assert settings.overlap_sam2 is True
    assert settings.url_allow == ("store.internal:9000", "[::1]:80")
    assert settings.url_ports == (80, 8443)
    assert settings.store_url == "s3://bucket/Prefix"
    assert settings.florence2 == "florence-community/Florence-2-base-ft@main"
    assert settings.decoder_weights == "int8"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_PIXELS", "many"),
        ("MAX_PIXELS", "1.5"),
        ("MAX_PIXELS", "0"),
        ("MAX_QUEUE", "-1"),
        ("URL_TOTAL_SECONDS", "nan"),
        ("URL_TOTAL_SECONDS", "inf"),
        ("URL_TOTAL_SECONDS", "0"),
        ("URLS_ENABLED", "maybe"),
        ("URL_ALLOW", "store.internal"),
        ("URL_ALLOW", "store.internal:port"),
        ("URL_ALLOW", "store.internal:70000"),
        ("URL_PORTS", "80,http"),
        ("URL_PORTS", "70000"),
        ("URL_PORTS", ","),
        ("PRECISION", "int8"),
        ("DECODER_WEIGHTS", "int4"),
    ],
)
def test_a_malformed_value_is_one_line_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{PREFIX}{name}: ") as caught:
        Settings.from_environment({PREFIX + name: value})
    assert "\n" not in str(caught.value)


def test_settings_survive_the_way_through_the_environment() -> None:
    settings = Settings(
        max_boxes=7, urls_enabled=False, url_allow=("a:1", "b:2"), url_ports=(8080,), store_url="memory://x"
    )
    assert Settings.from_environment(settings.environment()) == settings
    assert Settings().environment() == {}


def test_every_setting_is_an_option_with_help() -> None:
    rows = options()
    assert {row.name for row in rows} == set(vars(Settings()))
    for row in rows:
        assert row.variable == f"FLORENCE2_SAM2_{row.name.upper()}"
        assert row.help
        assert row.default == getattr(Settings(), row.name)


def test_the_variables_that_sessions_read_are_settings() -> None:
    from florence2_sam2.server import onnx_session

    defaults = {row.variable: row.default for row in options()}
    assert defaults[onnx_session.THREADS_VARIABLE] == 0
    assert defaults[onnx_session.SPIN_VARIABLE] == onnx_session.SPIN_MICROSECONDS
