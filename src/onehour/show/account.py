"""What the record of a run proves, in words."""

from onehour.training.record import Account


def account_text(account: Account) -> str:
    """An account as aligned lines."""
    share = account.done_again / account.num_steps
    lines = {
        "history": f"{account.num_steps:,} steps, {account.num_trained:,} samples, in {account.num_attempts} "
        f"attempt{'s' if account.num_attempts > 1 else ''}",
        "epochs": f"{account.num_trained / account.num_samples:.3g} of {account.num_samples:,} samples",
        "proven": f"{account.num_steps - len(account.wrong):,} steps trained the samples that the order gives them",
        "lost": f"{account.lost:,} samples",
        "twice": f"{account.twice:,} samples",
        "done again": f"{account.done_again:,} steps after faults ({share:.1%})",
    }
    if account.wrong:
        lines["wrong"] = "steps " + ", ".join(f"{step:,}" for step in account.wrong[:10])
        lines["wrong"] += " and more" if len(account.wrong) > 10 else ""
    return "\n".join(f"{name:<11}{text}" for name, text in lines.items())
