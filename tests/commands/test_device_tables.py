"""Terminal tables of devices show the values of the profiles."""

from __future__ import annotations

from edgewright.targets import list_targets, usable_bytes


def test_every_board_is_listed_with_its_description_and_its_usable_memory(cli) -> None:
    code, out, _ = cli("targets")
    assert code == 0
    listed = {
        columns[0]: columns[1:]
        for line in out.splitlines()
        if line.startswith("│")
        for columns in [[text.strip() for text in line.strip("│").split("│")]]
    }
    targets = list_targets()
    assert listed.keys() == {target.name for target in targets}
    for target in targets:  # the profile of a CPU means the machine at hand
        shown = f"{usable_bytes(target) / 1e9:,.1f}"
        assert float(shown) > 0
        assert listed[target.name] == [target.description, shown]
