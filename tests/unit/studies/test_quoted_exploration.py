"""What exploration-benchmark's page quotes is what its kept run measured, to the last digit shown."""

from statistics import median

from quoted import json_of, rows_of, table_of, text_of

PAGE = ("studies", "exploration_benchmark", "README.md")
STUDY = "exploration_benchmark"
SPACES = ("shipped", "vicuna", "large")
RUNS = rows_of(STUDY, "efficiency_runs")
EFFICIENCY = json_of(STUDY, "exploration_benchmark")["parts"]["efficiency"]


def runs_of(space, sampler="screened"):
    return [row for row in RUNS if (row["space"], row["sampler"]) == (space, sampler)]


def goal_of(space):
    """Median of the simulations to the goal, those that never got there last, and how many did within 100."""
    needed = [float(row["simulations_to_goal"] or "inf") for row in runs_of(space)]
    return f"{median(needed):.0f} ({sum(one <= 100 for one in needed)} of {len(needed)})"


def error_of(space, sampler):
    error = median(float(row["least_bandwidth_error"]) for row in runs_of(space, sampler))
    return f"{error:.1%}" if error else "0"


def test_how_few_simulations_find_the_front():
    shown = {row[0]: row[1:] for row in table_of(*PAGE, header="at 100 simulations|shipped")}
    exhaustive = [EFFICIENCY[space]["exhaustive"] for space in SPACES]
    expected = {
        "designs simulated for the exhaustive front": [f"{one['designs']:,}" for one in exhaustive],
        "the best 100 designs found, knowing the exhaustive front": [
            f"{one['best_100_designs']:.3f}" for one in exhaustive
        ],
        "simulations until screened has 0.99 (seeds within 100)": [goal_of(space) for space in SPACES],
        'error in "the least GB/s", TPE / screened': [
            f"{error_of(space, 'tpe')} / {error_of(space, 'screened')}" for space in SPACES
        ],
    }
    at_100 = {
        (row["space"], row["sampler"]): f"{float(row['median']):.3f}"
        for row in rows_of(STUDY, "efficiency")
        if row["simulations"] == "100"
    }
    for name, sampler in (
        ("random", "random"),
        ("NSGA-II", "nsga2"),
        ("multivariate TPE", "tpe"),
        ("screened (`auto` with a budget)", "screened"),
    ):
        expected[name] = [at_100[space, sampler] for space in SPACES]
    assert shown == expected


def test_what_the_page_says_of_the_runs():
    text = text_of(*PAGE)
    repeated, refused = (sum(int(row[name]) for row in RUNS) for name in ("repeated", "refused"))
    assert f"of {len(RUNS)} runs, {repeated} repeated designs ({refused:,} repeated suggestions were refused)" in text
    reached = sum(row["simulations_to_goal"] != "" for row in runs_of("shipped"))
    assert f"{reached} of {EFFICIENCY['seeds']} seeds get there within {EFFICIENCY['budgets']['screened']}" in text
    assert f"TPE had {EFFICIENCY['budgets']['tpe']} simulations, the others {EFFICIENCY['budgets']['random']}" in text
    assert not any(row["simulations_to_goal"] for row in RUNS if row["sampler"] != "screened"), "none reached 0.99"

    def paid(name, digits):
        return " / ".join(
            f"{round(median(float(row[name]) for row in runs_of(space)), digits):,.{max(digits, 0)}f}"
            for space in SPACES
        )

    assert f"{paid('bounded', -2)} bounds" in text
    told = [median(float(row["short_traces"]) for row in runs_of(space)) for space in SPACES]
    assert f"{round(told[0], -2):,.0f} / {round(told[1], -1):.0f} / {round(told[2], -2):,.0f} designs told" in text
    seconds = [median(float(row["suggestion_cpu_s"]) for row in runs_of(space)) for space in SPACES]
    assert f"in {' / '.join(f'{one:.2g}' for one in seconds)} CPU seconds" in text


def test_how_far_a_handful_of_steps_is_from_the_whole_trace():
    rows, text = rows_of(STUDY, "fidelity"), text_of(*PAGE)
    (n,) = {row["n"] for row in rows}
    pairs = {(row["model"], row["npu"]) for row in rows}
    assert f"{n} random designs on each of {len(pairs)} pairs of model and NPU" in text
    assert f"largest relative error {max(float(row['largest']) for row in rows):.1e}".replace("e-0", "e-") in text
    assert max(float(row["median"]) for row in rows if row["metric"] == "decode_tokens_per_s") < 1e-4
    assert {float(row["largest"]) for row in rows if row["metric"] == "ttft_s"} == {0}


def seconds_of(rows, column):
    value = median(float(row[column]) for row in rows)
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def test_how_long_an_exact_front_takes():
    names = {"many schedules": "many-schedules", "many NPUs": "many-npus", "conditional": "conditional"}
    rows = rows_of(STUDY, "exact_speed")
    shown = table_of(*PAGE, header="space|10⁴, one process")
    assert len(shown) == len(names)
    for name, *cells in shown:
        mine = [row for row in rows if row["space"] == names[name.split(",")[0].split(" (")[0]]]
        runs = {
            (size, workers): [row for row in mine if (int(row["size"]), row["workers"]) == (size, workers)]
            for size in (10**4, 10**5, 10**6)
            for workers in ("1", "2")
        }
        assert {len(one) for one in runs.values()} == {3}, "n = 3"
        two = runs[10**6, "2"]
        ends = [seconds_of(runs[size, "1"], "wall_s") for size in (10**4, 10**5, 10**6)]
        memory = median(float(row["peak_rss_bytes"]) for row in two) / 1e6
        (npus, left) = (int(two[0][column]) for column in ("npus", "left"))
        assert cells == [
            *ends,
            seconds_of(two, "wall_s"),
            seconds_of(two, "cpu_s"),
            f"{npus:,}",
            f"{left:,}",
            f"{memory:.0f} MB",
        ], name


def milliseconds(value):
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def test_what_a_trial_costs():
    rows = {(row["sampler"], int(row["trials"])): row for row in rows_of(STUDY, "overhead")}
    shown = {row[0]: row[1:] for row in table_of(*PAGE, header="|10²|10³")}
    columns = {"log: one line a trial, synced each second": "log_ms"}
    columns["bookkeeping, start of the run included"] = "bookkeeping_ms"
    for name, cells in shown.items():
        sampler = name.removeprefix("sampler: ") if name.startswith("sampler: ") else "random"
        expected = [
            milliseconds(float(rows[sampler, 10**power][columns.get(name, "suggestion_ms")]))
            if (sampler, 10**power) in rows
            else ""
            for power in (2, 3, 4, 5)
        ]
        assert cells == expected, name
    assert {sampler for sampler, _ in rows} <= {name.removeprefix("sampler: ") for name in shown}
    text, most = text_of(*PAGE), [rows[sampler, 10**5] for sampler in ("random", "exhaustive")]
    assert "takes {:.0f} CPU seconds (random".format(float(most[0]["resume_cpu_s"])) in text
    assert f"or {float(most[1]['resume_cpu_s']):.0f} (exhaustive)" in text
    assert "the process has {:.0f} or {:.0f} MB".format(*(float(row["peak_rss_bytes"]) / 1e6 for row in most)) in text
    exported = [float(row["export_cpu_s"]) for row in rows.values() if row["export_cpu_s"]]
    assert f"journal of 10⁴ trials is written in {median(exported):.1f} CPU seconds" in text


def test_what_two_workers_cost():
    rows, text = rows_of(STUDY, "speed_up"), text_of(*PAGE)
    one, two, apart = (
        median(float(row["wall_s"]) for row in rows if row["way"] == way)
        for way in ("one worker", "two workers", "two runs side by side")
    )
    assert f"medians of n = {len({row['repeat'] for row in rows})} on" in text
    assert f"{one:.1f} s with one, {two:.1f} s with two, {one / two:.2f} times as fast" in text
    assert f"together {2 * one / apart:.2f} times as fast as one" in text
    assert f"record take {1 - apart / 2 / two:.0%} of it" in text


def test_what_is_lost_when_processes_are_killed():
    rows, text = rows_of(STUDY, "kills"), text_of(*PAGE)
    kinds = [sum(row["kind"] == kind for row in rows) for kind in ("worker", "coordinator", "both", "write")]
    assert f"{len(rows)} times SIGKILL" in text
    assert (
        "{} times one worker, {} the coordinator, {} both at once, {} the coordinator as it wrote".format(*kinds)
        in text
    )
    assert (
        f"{sum(int(row['killed']) for row in rows)} processes died, in {len({row['run'] for row in rows})} expl" in text
    )
    lost, twice = (sum(int(row[name]) for row in rows) for name in ("lost", "duplicates"))
    assert f"Completed trials lost: {lost}. Designs simulated twice in a record: {twice}." in text
    assert {row[name] for row in rows for name in ("same_trials", "same_front")} == {"True"}
    assert f"{sum(row['trials_before'] == '0' for row in rows)} strikes came before the first trial" in text


def test_how_many_points_sobols_indices_need():
    rows = {(row["function"], row["points"]): row for row in rows_of(STUDY, "sensitivity")}
    shown = table_of(*PAGE, header="points|designs|area")
    assert 2 * len(shown) == len(rows)
    for points, designs, *cells in shown:
        expected = []
        for function in ("area of pmpd-4k", "Ishigami"):
            row = rows[function, points.replace(",", "")]
            assert designs == f"{int(row['designs']):,}" or function == "Ishigami"
            median_, worst = (f"{float(row[name]):.3f}" for name in ("error_median", "error_worst"))
            expected += [median_, worst, f"±{float(row['half_interval_median']):.2f}"]
        assert cells == expected, points
    inside = [float(row["inside"]) for row in rows.values()]
    assert f"they held the known index {min(inside):.0%} to {max(inside):.0%} of the time" in text_of(*PAGE)
    area = [float(rows["area of pmpd-4k", points]["error_median"]) for points in ("128", "256")]
    assert round(area[0] / area[1]) == 9
    assert "the error of the area falls by nine times" in text_of(*PAGE)
