"""demo: the digits recipe from end to end."""

from undiffuse import config
from undiffuse.cli.evaluate import keep_evaluation
from undiffuse.cli.options import DemoOptions
from undiffuse.cli.progress import show, table
from undiffuse.cli.train import run_training, start_training
from undiffuse.errors import Interrupted
from undiffuse.evaluation.run import evaluate
from undiffuse.processes import ranks


def demo(given: DemoOptions) -> None:
    training = start_training(config.load("digits"), given.out, "demo")
    run = training.run
    try:
        run_training(training)
    except Interrupted as stop:
        raise Interrupted(f"{stop}, then: undiffuse evaluate {run.path}") from None
    print("measuring, on new samples", flush=True)
    found = evaluate(training.pipeline(), watch=show)
    if ranks.rank():
        return
    print("\n".join([table(found.metrics), *keep_evaluation(run, found)]), flush=True)
    print(f"\nopen {run.path / 'report.html'} in a browser, or look at {run.samples / 'samples.png'}")
