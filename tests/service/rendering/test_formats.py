import pytest

from service.errors import ModelError
from service.rendering.formats import format_of
from service.rendering.harmony import HarmonyTemplate
from service.rendering.learning import LearnedTemplate
from service.rendering.library import LibraryTemplate
from tests.vocabularies import STRICT, real_files, tiny_files


def test_a_models_own_template_is_taken_where_it_can_be_told_turn_by_turn() -> None:
    found = format_of(real_files("qwen3"), "Qwen/Qwen3-8B")
    assert isinstance(found.template, LearnedTemplate)
    assert found.template.additive
    assert found.syntax.thought_opens == "<think>"
    assert found.syntax.calls


def test_a_template_that_says_something_else_is_taken_only_where_it_is_asked_for() -> None:
    files, model = real_files("deepseek_v3"), "deepseek-ai/DeepSeek-V3"
    own, asked = format_of(files, model), format_of(files, model, "library")
    assert isinstance(own.template, LearnedTemplate)
    assert not own.template.additive
    assert isinstance(asked.template, LibraryTemplate)
    assert asked.template.additive


def test_gpt_oss_speaks_harmony() -> None:
    found = format_of(real_files("gptoss"), "openai/gpt-oss-20b")
    assert isinstance(found.template, HarmonyTemplate)
    assert found.syntax.form == "harmony"


def test_what_the_operator_asks_for_is_taken() -> None:
    files = real_files("qwen3")
    library = format_of(files, "Qwen/Qwen3-8B", "library")
    assert isinstance(library.template, LibraryTemplate)
    with pytest.raises(ModelError, match="nor in the library"):
        format_of(tiny_files(STRICT), "nobody/knows", "library")


def test_a_model_without_a_template_is_told_by_its_name() -> None:
    files = {"tokenizer.json": real_files("qwen3")["tokenizer.json"]}
    assert isinstance(format_of(files, "Qwen/Qwen3-8B").template, LibraryTemplate)
    with pytest.raises(ModelError, match="chat template"):
        format_of(files, "nobody/knows")
