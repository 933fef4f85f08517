//! What is decided, told step by step; thousands of steps at random are `simulation`'s.

use super::*;

struct Device {
    arbiter: Arbiter,
    start: Instant,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn terms(weight: u32) -> Terms {
    Terms { weight, instances: 1, width: 1 }
}

impl Device {
    fn new(lanes: usize) -> Self {
        Self { arbiter: Arbiter::new(Some(lanes), 1), start: Instant::now() }
    }

    fn at(&self, after: u64) -> Instant {
        self.start + ms(after)
    }

    /// `seat` would run for `run` ms and must start by `latest`.
    fn claim(&mut self, seat: SeatId, (class, latest, run): (Class, u64, u64), now: u64) {
        let outlook = Outlook { class, latest: self.at(latest), run: ms(run) };
        self.arbiter.claim(seat, Some(outlook), self.at(now));
    }

    fn call(&mut self, now: u64) -> Vec<SeatId> {
        self.arbiter.call(self.at(now))
    }

    /// Who is called at `now` runs from then on.
    fn run(&mut self, now: u64) -> Option<(SeatId, RunId)> {
        let [seat] = self.call(now)[..] else { return None };
        Some((seat, self.arbiter.take(seat, self.at(now)).expect("it is called")))
    }
}

#[test]
fn the_most_urgent_class_and_then_the_earliest_start_goes_first() {
    let mut device = Device::new(1);
    let seats = [1, 1, 1].map(|weight| device.arbiter.join(terms(weight)));
    device.claim(seats[0], (2, 10, 1), 0);
    device.claim(seats[1], (1, 90, 1), 0);
    device.claim(seats[2], (1, 50, 1), 0);
    let mut order = Vec::new();
    while let Some((seat, run)) = device.run(0) {
        order.push(seat);
        device.arbiter.finish(run, device.at(0));
    }
    assert_eq!(order, [seats[2], seats[1], seats[0]]);
}

#[test]
fn a_lane_is_held_from_the_call_to_the_end_of_the_run_and_goes_on_when_the_work_is_gone() {
    let mut device = Device::new(1);
    let [one, other] = [1, 1].map(|weight| device.arbiter.join(terms(weight)));
    device.claim(one, (1, 10, 1), 0);
    device.claim(other, (1, 20, 1), 0);
    assert_eq!(device.call(0), [one]);
    assert_eq!(device.call(0), [], "it is called once");
    assert_eq!(device.arbiter.take(other, device.at(0)), None);
    device.arbiter.claim(one, None, device.at(0));
    let (seat, run) = device.run(0).unwrap();
    assert_eq!(seat, other);
    device.claim(one, (1, 10, 1), 0);
    assert_eq!(device.call(0), []);
    device.arbiter.finish(run, device.at(1));
    assert_eq!(device.call(1), [one]);
    device.arbiter.leave(one);
    device.claim(other, (1, 20, 1), 1);
    assert_eq!(device.call(1), [other]);
}

#[test]
fn models_that_always_have_work_share_by_weight() {
    let mut device = Device::new(1);
    let [light, heavy] = [1, 3].map(|weight| device.arbiter.join(terms(weight)));
    let mut runs = [0, 0];
    for turn in 0..4000 {
        // The lighter one would always have to start first.
        device.claim(light, (1, 10, 5), turn * 5);
        device.claim(heavy, (1, 20, 5), turn * 5);
        let (seat, run) = device.run(turn * 5).unwrap();
        runs[usize::from(seat == heavy)] += 1;
        device.arbiter.finish(run, device.at(turn * 5 + 5));
    }
    // Ahead by a hundred milliseconds at most, which are 20 runs.
    assert!((980..=1020).contains(&runs[0]), "{runs:?}");
}

#[test]
fn time_that_was_not_used_is_not_saved_up() {
    let mut device = Device::new(1);
    let [busy, late] = [1, 1].map(|weight| device.arbiter.join(terms(weight)));
    for turn in 0..1000 {
        device.claim(busy, (1, 10, 5), turn * 5);
        let (_, run) = device.run(turn * 5).unwrap();
        device.arbiter.finish(run, device.at(turn * 5 + 5));
    }
    let mut first = Vec::new();
    for turn in 1000..1100 {
        device.claim(busy, (1, 10, 5), turn * 5);
        device.claim(late, (1, 20, 5), turn * 5);
        let (seat, run) = device.run(turn * 5).unwrap();
        first.push(seat);
        device.arbiter.finish(run, device.at(turn * 5 + 5));
    }
    let runs = first.iter().filter(|&&seat| seat == late).count();
    assert!((30..=70).contains(&runs), "{runs} of 100");
}

#[test]
fn a_wide_run_has_the_lanes_kept_for_it_that_become_free() {
    let mut device = Device::new(2);
    let narrow = [1, 1, 1].map(|weight| device.arbiter.join(terms(weight)));
    let wide = device.arbiter.join(Terms { width: 2, ..terms(1) });
    device.claim(narrow[0], (1, 5, 1), 0);
    device.claim(narrow[1], (1, 6, 1), 0);
    assert_eq!(device.call(0), narrow[..2]);
    let runs = [0, 1].map(|index| device.arbiter.take(narrow[index], device.at(0)).unwrap());
    device.claim(wide, (1, 10, 1), 0);
    device.claim(narrow[2], (1, 20, 1), 0);
    device.arbiter.finish(runs[0], device.at(1));
    assert_eq!(device.call(1), []);
    device.arbiter.finish(runs[1], device.at(2));
    assert_eq!(device.call(2), [wide]);
}

#[test]
fn a_run_may_take_half_of_the_tightest_limit_of_the_others() {
    let mut device = Device::new(1);
    let [light, heavy] = [1, 1].map(|weight| device.arbiter.join(terms(weight)));
    let cap = |device: &Device, seat, class| device.arbiter.cap(seat, class, device.at(10));
    assert_eq!(cap(&device, heavy, 1), None);
    device.arbiter.heard(light, 2, (ms(10), 0.0), device.at(0));
    device.arbiter.heard(heavy, 1, (ms(100), 0.0), device.at(0));
    assert_eq!(cap(&device, heavy, 2), Some(ms(5)));
    assert_eq!(cap(&device, heavy, 1), None, "a less urgent class bounds nothing");
    assert_eq!(cap(&device, light, 2), Some(ms(50)));
    assert_eq!(device.arbiter.cap(heavy, 2, device.at(1100)), None);
}

#[test]
fn a_run_that_is_long_overdue_is_not_counted() {
    let mut device = Device::new(1);
    let [hangs, waits] = [1, 1].map(|weight| device.arbiter.join(terms(weight)));
    device.claim(hangs, (1, 10, 200), 0);
    let (_, run) = device.run(0).unwrap();
    device.claim(waits, (1, 10, 1), 0);
    assert_eq!((device.call(0), device.call(1999)), (vec![], vec![]));
    assert_eq!(device.arbiter.next_wake(device.at(0)), Some(device.at(2000)));
    assert_eq!(device.call(2000), [waits]);
    device.arbiter.finish(run, device.at(5000));
}

#[test]
fn what_a_model_counts_on_is_its_share_and_what_others_leave() {
    let mut device = Device::new(1);
    let [one, other] = [1, 3].map(|weight| device.arbiter.join(terms(weight)));
    assert!((device.arbiter.share(one, device.at(0)) - 1.0).abs() < 1e-9);
    for request in 0..2000 {
        device.arbiter.heard(other, 1, (ms(10), 0.5e-3), device.at(request));
    }
    // Half of the device is left, of which a quarter would be its own.
    let share = device.arbiter.share(one, device.at(2000));
    assert!((share - 0.5).abs() < 0.02, "{share}");
    device.claim(other, (1, 2010, 20), 2000);
    let (_, run) = device.run(2000).unwrap();
    let surroundings = device.arbiter.surroundings(one, 1, device.at(2100), device.at(2005));
    assert_eq!(surroundings.free_at, Some(device.at(2020)));
    assert_eq!(surroundings.cap, Some(ms(5)));
    device.arbiter.finish(run, device.at(2020));
}

#[test]
fn lanes_are_never_fewer_than_one_model_alone_uses_unless_they_are_configured() {
    let mut arbiter = Arbiter::new(None, 2);
    assert_eq!((arbiter.lanes(), arbiter.is_contended()), (2, false));
    let wide = arbiter.join(Terms { weight: 1, instances: 4, width: 1 });
    assert_eq!((arbiter.lanes(), arbiter.is_contended()), (4, false));
    arbiter.join(terms(1));
    assert!(arbiter.is_contended());
    arbiter.leave(wide);
    assert_eq!((arbiter.lanes(), arbiter.is_contended()), (2, false));
    let mut configured = Arbiter::new(Some(1), 2);
    configured.join(Terms { weight: 1, instances: 2, width: 1 });
    assert_eq!((configured.lanes(), configured.is_contended()), (1, true));
}
