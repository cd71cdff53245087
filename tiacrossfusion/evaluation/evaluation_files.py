"""The files that figures are kept in."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tiacrossfusion.errors import TiacfError, UsageError
from tiacrossfusion.evaluation.scores import Evaluation

EVALUATION, COMPARISON, COMPETING = "evaluation.json", "comparison.json", "competing_risks.json"


def read_evaluation(folder: Path) -> Evaluation:
    """Read the `evaluation.json` that `write_evaluation` wrote into a folder.

    Raises:
        UsageError: it is not there.
        TiacfError: it cannot be read, or is damaged.
    """
    path = folder / EVALUATION
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: does not exist; give the folder of a model that tiacf train wrote"
        ) from error
    except OSError as error:
        raise TiacfError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a model that tiacf train wrote"
        ) from error
    except ValidationError as error:
        raise TiacfError(f"{path}: damaged; run tiacf train again to have it made anew") from error
