from valkey.crc import key_slot

from service.store import CellName
from service.store.valkey.keys import cell_key, quota_key, tree_key

TEXT = "ann}@example.org:*"


def test_no_key_shows_what_it_was_made_of() -> None:
    keys = (tree_key(TEXT, TEXT), cell_key(CellName(TEXT, "conversation", TEXT)), quota_key(TEXT))
    for key in keys:
        assert "ann" not in key
        assert "example" not in key


def test_no_two_things_have_the_same_key() -> None:
    keys = [
        *(tree_key(tenant, root) for tenant in ("a", "ab", "") for root in ("b", "bb", "")),
        *(cell_key(CellName(tenant, "kind", name)) for tenant in ("a", "ab") for name in ("b", "")),
        cell_key(CellName("a", "other", "b")),
        *(quota_key(tenant) for tenant in ("a", "ab", "")),
    ]
    assert len(set(keys)) == len(keys)


def test_all_keys_of_a_tenant_begin_alike_and_its_trees_are_in_many_slots() -> None:
    trees = [tree_key("acme", str(number)) for number in range(50)]
    begin = quota_key("acme").removesuffix("}")
    assert all(key.startswith(begin) for key in trees)
    assert cell_key(CellName("acme", "kind", "name")).startswith(begin)
    assert len({key_slot(key.encode()) for key in trees}) > 40


def test_texts_that_are_no_unicode_have_keys_too() -> None:
    assert tree_key("acme", "\ud800")
