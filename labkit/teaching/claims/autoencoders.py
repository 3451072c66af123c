"""What is computed for the claims about sparse autoencoders, on the default model and the autoencoder labkit ships."""

from __future__ import annotations

WORDS = "whale whales"
CONCEPT = "whale"
STRENGTHS = (0, 40, 80, 120)
TOKENS = 16
ABOUT = (
    "The whale rose to the surface and blew.",
    "Whales are the largest animals in the sea.",
    "A pod of whales swam past the ship.",
    "The great whale dived beneath the waves.",
    "They hunted the whale for its oil.",
    "A young whale stays close to its mother.",
)
OTHER = (
    "The train came to the station and stopped.",
    "Elephants are the largest animals on land.",
    "A flock of birds flew past the house.",
    "The old man sat down beneath the tree.",
    "They planted the field for its wheat.",
    "A young child stays close to its mother.",
)
PROMPTS = (
    "My favourite thing to do on Sunday is",
    "The recipe begins with two cups of",
    "The best advice I ever got was",
    "The meeting started late because",
    "To learn a language, you should",
    "The king called his ministers and",
    "In the garden behind the house there",
    "The new telephone has a",
    "Our teacher told us a story about",
    "The most important thing in life is",
)


def golden_gate() -> tuple[float, str]:
    """In how many texts of a hundred the whale appears at the best strength, and what it costs, beside other directions.

    The feature is the first that search finds for the words; the random one is of similar density.
    """
    import torch

    from labkit import sae as room
    from labkit.lab import load

    lab, sae = load(dtype="float32", device="cpu"), room.load()
    feature = sae[int(room.search(lab, sae, WORDS, k=3).iloc[0]["feature"])]
    often = torch.from_numpy(room.index(lab, sae).density).float()
    ratio = often / often[feature.index]
    alike = [i for i in ((ratio > 0.8) & (ratio < 1.25)).nonzero().flatten().tolist() if i != feature.index]
    drawn = int(torch.randint(len(alike), (1,), generator=torch.Generator().manual_seed(0)))
    table = room.dose(
        lab,
        sae,
        {
            "held": lambda value: room.clamp(feature, value),
            "pushed": feature,
            "difference": room.difference(lab, sae, ABOUT, OTHER),
            "random": sae[alike[drawn]],
        },
        STRENGTHS,
        PROMPTS,
        lambda text: CONCEPT in text.lower(),
        tokens=TOKENS,
        chat=False,
        random=0,  # a random feature stands there already
        progress=False,
    )
    best = {
        name: rows.sort_values(["share", "strength"], ascending=[False, True]).iloc[0]
        for name, rows in table.groupby("direction", sort=False)
    }
    own, plain = best["held"], table[table["strength"] == 0].iloc[0]
    share = round(100 * float(own["share"]))
    return float(share), (
        f"of {len(PROMPTS)} texts that begin elsewhere {share} % speak of a whale when its feature is held at "
        f"{own['strength']:g} (95 %: {100 * own['low']:.0f} to {100 * own['high']:.0f} %; the best of {len(STRENGTHS) - 1} "
        f"values), {100 * plain['share']:.0f} % without, at most {100 * best['random']['share']:.0f} % pushed along a random "
        f"feature, {100 * best['pushed']['share']:.0f} % along its own and "
        f"{100 * best['difference']['share']:.0f} % along a difference of means; what is written then costs the unsteered "
        f"model {own['loss']:.1f} nats a token, {plain['loss']:.1f} without"
    )
