use super::*;
use crate::probe::{Batchable, CurvePoint};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A machine on which a run takes what `run` says of its split, its rows and the runs at once. No time passes.
struct Script<F> {
    run: F,
    opening: Duration,
    refused: Vec<Split>,
    opened: Vec<Split>,
    elapsed: Duration,
    calls: usize,
}

impl<F: Fn(Split, usize, usize) -> Duration> Script<F> {
    fn new(run: F) -> Self {
        let (refused, opened) = (Vec::new(), Vec::new());
        Self { run, opening: MILLISECOND, refused, opened, elapsed: Duration::ZERO, calls: 0 }
    }

    fn spend(&mut self, duration: Duration, runs: usize) -> Duration {
        let spent = duration * u32::try_from(runs).unwrap();
        self.elapsed += spent;
        self.calls += 1;
        spent
    }
}

impl<F: Fn(Split, usize, usize) -> Duration> Trial for Script<F> {
    fn elapsed(&self) -> Duration {
        self.elapsed
    }

    fn opening(&self, split: Split) -> Option<Duration> {
        (!self.refused.contains(&split)).then_some(self.opening)
    }

    fn open(&mut self, split: Split, rows: usize) -> bool {
        self.opened.push(split);
        self.elapsed += self.opening;
        self.together(split, rows, 1).is_some()
    }

    fn alone(&mut self, split: Split, rows: usize, runs: usize) -> Option<Duration> {
        let duration = (self.run)(split, rows, 1);
        self.spend(duration, runs);
        Some(duration)
    }

    fn together(&mut self, split: Split, rows: usize, runs: usize) -> Option<Duration> {
        let duration = (self.run)(split, rows, split.instances);
        Some(self.spend(duration, runs))
    }
}

struct Case {
    config: ModelConfig,
    findings: Findings,
    cores: usize,
    max_rows: Option<NonZeroUsize>,
}

impl Case {
    /// Durations in milliseconds of 1, 2, 4, ... rows on one thread.
    fn new(cores: usize, curve_ms: &[f64]) -> Self {
        let curve = curve_ms
            .iter()
            .enumerate()
            .map(|(exponent, &milliseconds)| CurvePoint { rows: 1 << exponent, duration: ms(milliseconds) });
        let batchable = Batchable::Yes { bitwise: true };
        let findings = Findings { curve: curve.collect(), bytes_of_row: 4, ..Findings::untried(batchable) };
        Self { config: ModelConfig::default(), findings, cores, max_rows: None }
    }

    fn profile(mut self, profile: Profile) -> Self {
        self.config.profile = profile;
        self
    }

    fn instances(mut self, instances: usize) -> Self {
        self.config.instances = NonZeroUsize::new(instances);
        self
    }

    fn plan(&self, trial: &mut dyn Trial) -> Plan {
        let cores = NonZeroUsize::new(self.cores).unwrap();
        let Self { config, findings, max_rows, .. } = self;
        let plan = choose(&Question { config, findings, max_rows: *max_rows, arena: true, cores }, trial);
        for one in plan.why.iter().map(Candidate::split).chain([plan.split()]) {
            assert!(one.instances * one.threads <= self.cores, "{one:?} on {} cores", self.cores);
        }
        assert!(plan.max_batch_rows <= plan.row_limit);
        plan
    }
}

fn ms(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds / 1e3)
}

/// Runs of `single` milliseconds a row that more threads share as if `parallel` of the work were parallel, and that
/// `drag` more of themselves are slowed by for each run beside them.
fn amdahl(single: f64, parallel: f64, drag: f64) -> impl Fn(Split, usize, usize) -> Duration {
    move |split, rows, callers| {
        let time = (1.0 - parallel) + parallel / split.threads as f64;
        ms(single * rows as f64 * time * (1.0 + drag * (callers - 1) as f64))
    }
}

fn split(instances: usize, threads: usize) -> Split {
    Split { instances, threads }
}

#[test]
fn instances_that_do_not_slow_each_other_give_the_most_rows() {
    let plan = Case::new(2, &[2.0, 4.0]).plan(&mut Script::new(amdahl(2.0, 0.9, 0.0)));
    assert_eq!((plan.split(), plan.because), (split(2, 1), Because::Measured(Profile::Throughput)));
    let tried: Vec<_> = plan.why.iter().map(Candidate::split).collect();
    assert_eq!(tried, [split(2, 1), split(1, 2)]);
    assert!((plan.why[0].rows_per_second - 1000.0).abs() < 1.0, "{:?}", plan.why);
    assert!((plan.why[1].rows_per_second - 909.1).abs() < 1.0, "{:?}", plan.why);
}

#[test]
fn instances_that_slow_each_other_make_way_for_threads() {
    // Two runs at once take twice as long each: the memory has no more to give.
    let plan = Case::new(2, &[2.0, 4.0]).plan(&mut Script::new(amdahl(2.0, 0.9, 1.0)));
    assert_eq!(plan.split(), split(1, 2));
    let between = Case::new(4, &[2.0, 4.0]).plan(&mut Script::new(amdahl(2.0, 0.9, 0.4)));
    assert_eq!(between.split(), split(1, 4), "{:?}", between.why);
}

#[test]
fn latency_takes_the_shortest_run_that_keeps_half_of_the_throughput() {
    let check = |parallel, expected| {
        let case = Case::new(8, &[2.0, 4.0]).profile(Profile::Latency);
        let plan = case.plan(&mut Script::new(amdahl(2.0, parallel, 0.0)));
        assert_eq!(plan.split(), expected, "{:?}", plan.why);
        assert_eq!(plan.because, Because::Measured(Profile::Latency));
    };
    check(0.95, split(1, 8));
    // 8 threads keep 0.42 of the throughput, 4 threads 0.63.
    check(0.8, split(2, 4));
    // No thread gains anything: the run stays as short, and the throughput is kept.
    check(0.0, split(8, 1));
}

#[test]
fn a_difference_that_could_be_chance_leaves_one_thread_a_run() {
    let run = |split: Split, rows, _| ms(if split.threads == 2 { 0.98 } else { 2.0 } * rows as f64);
    assert_eq!(Case::new(2, &[2.0, 4.0]).plan(&mut Script::new(run)).split(), split(2, 1));
}

#[test]
fn tiny_runs_and_one_core_cost_no_trial() {
    let check = |case: Case, expected, because| {
        let mut script = Script::new(amdahl(0.05, 0.9, 0.0));
        let plan = case.plan(&mut script);
        assert_eq!((script.calls, script.opened.len()), (0, 0));
        assert_eq!((plan.split(), plan.because, plan.why.len()), (expected, because, 1));
    };
    let tiny = [0.05, 0.05, 0.05, 0.05];
    check(Case::new(2, &tiny), split(1, 1), Because::TinyRun);
    check(Case::new(16, &tiny), split(4, 1), Because::TinyRun);
    check(Case::new(1, &[2.0, 4.0]), split(1, 1), Because::OneCore);
    check(Case::new(1, &[2.0, 4.0]).profile(Profile::Latency), split(1, 1), Because::OneCore);
    check(Case::new(1, &[2.0]).instances(8), split(1, 1), Because::OneCore);
}

#[test]
fn a_short_run_whose_rows_cost_more_than_the_wire_is_tried() {
    // As of an MLP of 1.8 million parameters: a run of one row is short, but a core does no more than 28,000 rows/s.
    let run = |split: Split, rows: usize, _| {
        ms([0.096, 0.099, 0.141][rows.ilog2() as usize] / split.threads as f64)
    };
    let plan = Case::new(2, &[0.096, 0.099, 0.141]).plan(&mut Script::new(run));
    assert_eq!((plan.split(), plan.max_batch_rows.get()), (split(2, 1), 4));
}

#[test]
fn instances_that_are_configured_get_more_threads_only_for_latency() {
    let check = |case: Case, expected, because| {
        let plan = case.plan(&mut Script::new(amdahl(2.0, 0.9, 0.0)));
        assert_eq!((plan.split(), plan.because), (expected, because));
    };
    let case = || Case::new(4, &[2.0, 4.0]);
    check(case().instances(2), split(2, 1), Because::Configured);
    check(case().instances(64), split(4, 1), Because::Configured);
    let measured = Because::Measured(Profile::Latency);
    check(case().instances(2).profile(Profile::Latency), split(2, 2), measured);
    check(case().instances(3).profile(Profile::Latency), split(3, 1), Because::Configured);
}

#[test]
fn trials_end_within_their_budget() {
    for single in [0.2, 1.0, 5.0, 20.0, 60.0, 100.0, 150.0, 300.0, 450.0, 2000.0] {
        for cores in [2, 3, 8, 64] {
            for curve in [&[single, 2.0 * single][..], &[single, single * 1.1, single * 1.3]] {
                // Neither threads nor instances gain anything, but nor do they lose.
                let mut script = Script::new(|_, rows: usize, _| ms(curve[rows.ilog2() as usize]));
                let plan = Case::new(cores, curve).plan(&mut script);
                assert!(script.elapsed <= BUDGET, "{:?} of {single} ms", script.elapsed);
                let measured = plan.because == Because::Measured(Profile::Throughput);
                assert_eq!(measured, !script.opened.is_empty());
            }
        }
    }
}

#[test]
fn a_model_too_slow_for_trials_is_tried_only_by_who_asks_for_latency() {
    let mut script = Script::new(amdahl(2000.0, 0.9, 0.0));
    let plan = Case::new(4, &[2000.0]).plan(&mut script);
    assert_eq!((plan.split(), plan.because, script.calls), (split(4, 1), Because::SlowRun, 0));
    let mut script = Script::new(amdahl(2000.0, 0.9, 0.0));
    let plan = Case::new(4, &[2000.0]).profile(Profile::Latency).plan(&mut script);
    assert_eq!((plan.split(), script.opened), (split(1, 4), vec![split(1, 4)]));
    let mut loading = Script::new(amdahl(2.0, 0.9, 1.0));
    loading.opening = Duration::from_secs(2);
    assert_eq!(Case::new(4, &[2.0]).plan(&mut loading).because, Because::SlowRun);
}

#[test]
fn a_split_that_cannot_be_had_is_not_chosen() {
    let mut script = Script::new(amdahl(2.0, 0.95, 1.0));
    script.refused = vec![split(1, 4)];
    let plan = Case::new(4, &[2.0, 4.0]).plan(&mut script);
    let tried: Vec<_> = plan.why.iter().map(Candidate::split).collect();
    assert_eq!(tried, [split(4, 1), split(2, 2)]);
}

#[test]
fn batches_are_as_large_as_pays_and_as_memory_allows() {
    let rising = [2.0, 2.2, 2.6, 4.0, 8.0];
    let rows = |case: &Case| {
        let plan = case.plan(&mut Script::new(amdahl(2.0, 0.0, 0.0)));
        (plan.max_batch_rows.get(), plan.row_limit.get())
    };
    assert_eq!(rows(&Case::new(1, &rising)), (8, 64));
    assert_eq!(rows(&Case::new(1, &[2.0, 4.0, 8.0])), (1, 64), "a flat curve");
    let mut case = Case::new(1, &rising);
    case.findings.bytes_of_row = 20 << 20;
    assert_eq!(rows(&case), (3, 3), "3 rows of 20 MiB fit 64 MiB");
    case.findings.bytes_of_row = 100 << 20;
    assert_eq!(rows(&case), (1, 1), "a row runs whatever it takes");
    let mut case = Case::new(1, &rising);
    case.max_rows = NonZeroUsize::new(4);
    assert_eq!(rows(&case), (4, 4));
    case.config.batching = Batching::Off;
    assert_eq!(rows(&case), (1, 1));
    let mut case = Case::new(1, &[2.0]);
    case.findings.batchable = Batchable::No("it is so".to_owned());
    assert_eq!(rows(&case), (1, 1));
}

#[test]
fn batches_that_do_not_pay_with_the_chosen_threads_are_off() {
    // One thread gains by batches of 4; two threads gain as much by themselves.
    let run = |split: Split, rows: usize, callers: usize| match split.threads {
        1 => ms([2.0, 2.2, 2.6][rows.ilog2() as usize] * callers as f64),
        _ => ms(0.5 * rows as f64),
    };
    let plan = Case::new(2, &[2.0, 2.2, 2.6]).plan(&mut Script::new(run));
    assert_eq!((plan.split(), plan.max_batch_rows.get()), (split(1, 2), 1), "{:?}", plan.why);
}

#[test]
fn a_model_that_could_not_be_tried_gets_all_cores_without_batches() {
    let mut case = Case::new(4, &[]);
    case.findings.batchable = Batchable::No("it could not be tried".to_owned());
    let plan = case.plan(&mut Script::new(amdahl(2.0, 0.9, 0.0)));
    assert_eq!((plan.split(), plan.because), (split(4, 1), Because::NotTried));
    assert_eq!((plan.max_batch_rows.get(), plan.why.len()), (1, 0));
}

#[test]
fn a_batch_of_a_fixed_size_counts_all_its_rows() {
    let mut case = Case::new(2, &[2.0]);
    case.findings.batchable = Batchable::No("dimension 0 is fixed at 4".to_owned());
    case.findings.curve[0].rows = 4;
    let plan = case.plan(&mut Script::new(|_, rows, _| {
        assert_eq!(rows, 4);
        ms(2.0)
    }));
    assert!((plan.why[0].rows_per_second - 4000.0).abs() < 1.0, "{:?}", plan.why);
}

/// A plan of `rows` rows, of at most 64, whose run of one row took 1 ms.
fn planned(rows: usize) -> Plan {
    let mut plan = Case::new(1, &[1.0]).plan(&mut Script::new(amdahl(1.0, 0.0, 0.0)));
    plan.max_batch_rows = NonZeroUsize::new(rows).unwrap();
    plan
}

/// What `reconsider` makes of `l(n) = n + fixed` ms, learned from enough batches.
fn reconsidered(plan: &Plan, fixed: f64) -> Option<Change> {
    let predict = |rows: usize| ms(rows as f64 + fixed);
    reconsider(plan, &Observed { predict: &predict, batches: 200, age: Duration::from_secs(10) })
}

#[test]
fn rows_follow_the_learned_knee() {
    let rows = |plan: &Plan, fixed| reconsidered(plan, fixed).map(|change| change.max_batch_rows.get());
    // The time per row is 1 + fixed / rows: within 5 % of the best at 45 rows for 8.4, at 2 for 0.1.
    assert_eq!(rows(&planned(8), 8.4), Some(45));
    assert_eq!(rows(&planned(45), 0.1), Some(2));
    assert_eq!(rows(&planned(45), 8.4), None);
    assert_eq!(rows(&planned(1), 0.0), None);
}

#[test]
fn a_plan_is_changed_only_by_many_batches_and_not_often() {
    let predict = |rows: usize| ms(rows as f64 + 8.4);
    let seconds = Duration::from_secs;
    let asks =
        |batches, age| reconsider(&planned(1), &Observed { predict: &predict, batches, age }).is_some();
    assert!(asks(200, seconds(10)));
    assert!(!asks(199, seconds(10)));
    assert!(!asks(200, seconds(9)));
}

#[test]
fn a_change_settles_and_a_wavering_curve_changes_nothing() {
    for fixed in 0..200 {
        let fixed = f64::from(fixed) / 10.0;
        for rows in 1..=64 {
            let mut plan = planned(rows);
            let Some(change) = reconsidered(&plan, fixed) else { continue };
            plan.max_batch_rows = change.max_batch_rows;
            for near in [fixed * 0.85, fixed, fixed * 1.15] {
                assert_eq!(reconsidered(&plan, near), None, "from {rows} rows at {fixed}, then {near}");
            }
        }
    }
}

#[test]
fn rows_never_pass_their_limit() {
    let mut plan = planned(2);
    plan.row_limit = NonZeroUsize::new(6).unwrap();
    let rows = |change: Option<Change>| change.map(|change| change.max_batch_rows.get());
    assert_eq!(rows(reconsidered(&plan, 50.0)), Some(6));
    plan.row_limit = NonZeroUsize::MIN;
    plan.max_batch_rows = NonZeroUsize::MIN;
    assert_eq!(reconsidered(&plan, 50.0), None);
}

#[test]
fn a_split_is_stale_when_single_runs_take_another_time_than_at_load() {
    let stale = |fixed| reconsidered(&planned(64), fixed).map(|change| change.is_split_stale);
    assert_eq!(stale(0.1), Some(false));
    assert_eq!(stale(0.5), Some(true));
}

#[test]
fn an_estimator_that_has_learned_nothing_changes_nothing() {
    let predict = |_: usize| Duration::ZERO;
    let observed = Observed { predict: &predict, batches: 500, age: Duration::from_secs(60) };
    assert_eq!(reconsider(&planned(8), &observed), None);
}
