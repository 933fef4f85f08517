//! Models that share a device. Which of them runs is told by what has started, never by a clock.

use std::sync::atomic::AtomicUsize;

use super::*;

/// A model that runs one row at a time when it has leave, on a device that others may use.
fn gated(host: &Host) -> Fixture {
    let (started_sender, started) = channel();
    let (leave, leave_receiver) = channel();
    let executor = Box::new(Gated { started: started_sender, leave: leave_receiver });
    Fixture::on(host, executor, (started, leave), (1, 256))
}

/// Counts how many run at the same time.
struct Counting {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Executor for Counting {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        std::thread::yield_now();
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(inputs.to_vec())
    }
}

#[test]
fn a_model_alone_on_its_device_never_takes_the_devices_lock() {
    let host = host(1);
    let model = gated(&host);
    let before = host.lanes.locks();
    for number in 0..3 {
        let (_, answer) = model.submit(number, LONG);
        model.leave.send(()).unwrap();
        assert_eq!(value(&answer).unwrap(), (number, 1));
    }
    assert_eq!(host.lanes.locks(), before);
}

#[test]
fn a_request_among_others_takes_the_devices_lock_a_few_times() {
    const REQUESTS: usize = 100;
    let host = host(1);
    let (model, _other) = (gated(&host), gated(&host));
    let before = host.lanes.locks();
    for _ in 0..REQUESTS {
        let (_, answer) = model.submit(1, LONG);
        model.leave.send(()).unwrap();
        value(&answer).unwrap();
    }
    // Looking around, being heard, the claim, the lane; and the lane given back.
    let each = (host.lanes.locks() - before) as f64 / REQUESTS as f64;
    assert!(each <= 6.0, "{each}");
}

#[test]
fn no_more_run_at_once_than_there_are_lanes_and_all_are_answered() {
    for lanes in 1..=2 {
        let host = host(lanes);
        let [running, most] = [(), ()].map(|()| Arc::new(AtomicUsize::new(0)));
        let model = || {
            let executor = Counting { running: Arc::clone(&running), most: Arc::clone(&most) };
            Fixture::on(&host, Box::new(executor), (channel().1, channel().0), (2, 1000))
        };
        let models = [model(), model(), model()];
        let answers: Vec<_> = (0..300).map(|number| models[number % 3].submit(7, LONG).1).collect();
        for answer in answers {
            assert_eq!(value(&answer).unwrap().0, 7);
        }
        assert!(most.load(Ordering::SeqCst) <= lanes);
    }
}

#[test]
fn a_model_waits_for_the_lane_of_another_and_is_woken() {
    let host = host(1);
    let (one, other) = (gated(&host), gated(&host));
    let first = one.occupy();
    let (_, waiting) = other.submit(5, LONG);
    assert_eq!(other.scheduler.waiting(), 1);
    one.leave.send(()).unwrap();
    assert_eq!(other.started.recv().unwrap(), 1);
    other.leave.send(()).unwrap();
    assert_eq!((value(&first).unwrap(), value(&waiting).unwrap()), ((0, 1), (5, 1)));
}

#[test]
fn a_claim_whose_request_is_gone_blocks_nobody() {
    let host = host(1);
    let (one, other) = (gated(&host), gated(&host));
    let _first = one.occupy();
    let (accepted, _gone) = other.submit(5, LONG);
    let (_, second) = one.submit(6, LONG);
    other.scheduler.cancel(&accepted.unwrap());
    (0..2).for_each(|_| one.leave.send(()).unwrap());
    assert_eq!(value(&second).unwrap(), (6, 1));
}

#[test]
fn a_request_that_waits_for_a_lane_expires_in_time() {
    let host = host(1);
    let (one, other) = (gated(&host), gated(&host));
    let _first = one.occupy();
    let (_, late) = other.submit(5, LONG);
    let (_, soon) = other.submit(6, Duration::from_millis(5));
    assert_eq!(value(&soon).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    one.leave.send(()).unwrap();
    other.leave.send(()).unwrap();
    assert_eq!(value(&late).unwrap(), (5, 1));
}

#[test]
fn a_model_that_goes_leaves_its_lane_and_its_claim() {
    let host = host(1);
    let (one, other, third) = (gated(&host), gated(&host), gated(&host));
    let _first = one.occupy();
    let (_, _never) = third.submit(4, LONG);
    let (_, waiting) = other.submit(5, LONG);
    third.scheduler.drain(Duration::ZERO);
    drop(third);
    one.leave.send(()).unwrap();
    one.scheduler.close(LONG);
    drop(one);
    other.leave.send(()).unwrap();
    assert_eq!(value(&waiting).unwrap(), (5, 1));
    // Its lane of then is given back before the next run; from then on the device is its own.
    let alone = |number| {
        let (_, answer) = other.submit(number, LONG);
        other.leave.send(()).unwrap();
        assert_eq!(value(&answer).unwrap(), (number, 1));
    };
    alone(6);
    let before = host.lanes.locks();
    alone(7);
    assert_eq!(host.lanes.locks(), before);
}

#[test]
fn a_run_that_hangs_does_not_hold_its_lane_for_ever() {
    let host = host(1);
    let (hangs, other) = (gated(&host), gated(&host));
    let _never = hangs.occupy();
    let (_, waiting) = other.submit(5, LONG);
    other.leave.send(()).unwrap();
    // After the time for which every run is believed.
    assert_eq!(value(&waiting).unwrap(), (5, 1));
    hangs.leave.send(()).unwrap();
}
