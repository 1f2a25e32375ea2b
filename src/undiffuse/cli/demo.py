"""demo: the digits recipe from end to end."""

from undiffuse import config
from undiffuse.cli.evaluate import _evaluate_model
from undiffuse.cli.options import DemoOptions, EvaluateOptions
from undiffuse.cli.progress import table
from undiffuse.cli.train import _keep, _started, _train
from undiffuse.errors import Interrupted


def demo(given: DemoOptions) -> None:
    training = _started(config.load("digits"), given.out, "demo")
    run = training.run
    try:
        _train(training)
    except Interrupted as stop:
        raise Interrupted(f"{stop}, then: undiffuse evaluate {run.path}") from None
    print("measuring, on new samples", flush=True)
    result, closest = _evaluate_model(training.pipeline(), EvaluateOptions(str(run.path)))
    print("\n".join([table(result["metrics"]), *_keep(run, result, closest)]), flush=True)
    print(f"\nopen {run.path / 'report.html'} in a browser, or look at {run.samples / 'samples.png'}")
