"""What the report says: one row for each metric, picture and unit it knows. Anything else is shown by its own name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """title; better: "lower", "higher", "near 1"; meaning: one plain sentence; reference: what its floor holds."""

    title: str
    better: str
    meaning: str
    reference: str


@dataclass(frozen=True)
class Picture:
    """sheet: a strip with a title of its own and small letters, which a narrow page scrolls rather than shrinks, unless
    it is narrow itself."""

    heading: str
    caption: str
    sheet: bool = False
    narrow: bool = False


METRIC_TEXTS = {
    "frechet": Metric(
        "Fréchet distance",
        "lower",
        "How far the mean and spread of the generated pictures lie from those of real ones, by their features.",
        "real training pictures against real held-out ones",
    ),
    "train_on_generated": Metric(
        "Trained on generated",
        "higher",
        "How well a classifier that saw only generated pictures reads real held-out ones.",
        "the same classifier trained on real pictures",
    ),
    "label_accuracy": Metric(
        "Recognised as asked",
        "higher",
        "What share of generated pictures a classifier of real ones takes for the class that they were asked for.",
        "real held-out pictures",
    ),
    "kid": Metric(
        "Kernel distance",
        "lower",
        "How far the generated pictures lie from real ones by their features, with no bias however few there are: "
        "0, and so at times below it, for pictures of the same kind.",
        "real training pictures against real held-out ones",
    ),
    "inception_score": Metric(
        "Inception Score",
        "higher",
        "How surely a classifier of real pictures names the generated ones, and how many classes it finds among them.",
        "real held-out pictures",
    ),
    "precision": Metric(
        "Precision",
        "higher",
        "What share of generated pictures lies among real held-out ones.",
        "real training pictures",
    ),
    "recall": Metric(
        "Recall",
        "higher",
        "What share of real held-out pictures lies among generated ones.",
        "among real training pictures",
    ),
    "density": Metric(
        "Density",
        "near 1",
        "Among how many real held-out pictures a generated one lies, where 1 is usual for real ones.",
        "real training pictures",
    ),
    "coverage": Metric(
        "Coverage",
        "higher",
        "What share of real held-out pictures has a generated one among its neighbours.",
        "a real training picture",
    ),
    "memorisation": Metric(
        "Nearer to training pictures",
        "lower",
        "What share of generated pictures is nearer to one that the model was trained on than to any held-out one: all "
        "of them, if they were copies. A little above the reference means that they lean towards training pictures; "
        "the nearest neighbours below show how close the closest are.",
        "what fresh real pictures would give",
    ),
    "bpd_ode": Metric(
        "Bits per dimension, by the ODE",
        "lower",
        "How many bits per pixel value a real held-out picture takes by the model's own likelihood, which is read off "
        "its probability-flow ODE.",
        "",
    ),
    "bpd": Metric(
        "Bits per dimension",
        "lower",
        "How many bits per pixel value the model needs at most to tell a real held-out picture exactly.",
        "",
    ),
}

PICTURES = {
    "samples.png": Picture("Final samples", "Drawn from the model at the end of training."),
    "denoising.gif": Picture("Denoising", "The model at work: from noise at t = T to pictures at t = 0."),
    "classes.png": Picture("By class", "Each row was drawn with one class as its label.", sheet=True),
    "neighbours.png": Picture(
        "Nearest neighbours",
        "The generated pictures that come closest to one that the model was trained on, the closest first. Below each: "
        "that training picture, then the nearest held-out picture, which the model has never seen, each with its "
        "distance (root mean square over pixels, in grey levels of the data). A copy is at distance 0 from a training "
        "picture. These were picked for being near to one, so held-out pictures lie a little further off in any case.",
        sheet=True,
        narrow=True,
    ),
    "reverse.png": Picture(
        "From noise to pictures",
        "Upper rows: the state at time t. Lower rows: what the network then guesses the finished picture to be.",
        sheet=True,
    ),
    "forward.png": Picture(
        "From data to noise",
        "A real picture with more and more noise under each schedule; the configuration says which is this model's.",
        sheet=True,
    ),
}

QUALITY = (
    "How far {n} samples, drawn in {steps} steps, lie from real held-out pictures (Fréchet distance). So few samples "
    "in so few steps lie further off than those above: compare these numbers with each other and with as many real "
    "pictures, not with the evaluation's."
)

PREDICTION_TEXTS = {"eps": "the noise (eps)", "x0": "the picture (x0)", "v": "the velocity (v)", "score": "the score"}

# configuration key -> unit
UNITS = {
    "data.levels": "grey levels",
    "data.shape": "channels, rows, columns",
    "diffusion.T": "time steps",
    "train.steps": "updates",
    "train.batch_size": "images per update",
    "train.lr": "per update",
    "train.warmup": "updates",
    "train.ema": "decay per update",
    "train.checkpoint_every": "updates",
    "train.sample_every": "updates",
    "sample.steps": "sampling steps",
    "sample.guidance": "(1 = off)",
    "training_seconds": "s",
}
