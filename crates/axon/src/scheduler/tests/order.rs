//! Answers in the order of their requests, from several instances whose runs end as the test says.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;

/// Runs each request until the test lets it go, by its value.
struct Released {
    started: Sender<usize>,
    leave: Arc<BTreeMap<i64, Mutex<Receiver<bool>>>>,
}

impl Executor for Released {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let value = inputs[0].as_slice::<i64>().unwrap()[0];
        self.started.send(usize::try_from(value).unwrap()).unwrap();
        let may_answer = self.leave[&value].lock().unwrap().recv().unwrap();
        if may_answer { Ok(inputs.to_vec()) } else { Err(Error::invalid("inputs", "planted")) }
    }
}

/// Of a request, by its value.
type Answer = (i64, Result<Output>);

struct Ordered {
    scheduler: Scheduler,
    started: Receiver<usize>,
    leave: BTreeMap<i64, Sender<bool>>,
    /// What was answered, in the order in which it was.
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl Ordered {
    fn new(instances: usize, max_queue_size: usize) -> Self {
        let (started_sender, started) = channel();
        let (leave, receivers): (BTreeMap<_, _>, BTreeMap<_, _>) = (0..10)
            .map(|value| {
                let (sender, receiver) = channel();
                ((value, sender), (value, Mutex::new(receiver)))
            })
            .unzip();
        let receivers = Arc::new(receivers);
        let executors = (0..instances).map(|_| -> Box<dyn Executor> {
            Box::new(Released { started: started_sender.clone(), leave: Arc::clone(&receivers) })
        });
        let limits = Limits {
            max_batch_rows: NonZeroUsize::MIN,
            max_queue_size: NonZeroUsize::new(max_queue_size).unwrap(),
            max_queue_bytes: 1 << 20,
        };
        let rules = Rules { preserve_order: true, ..Rules::new(limits) };
        let config = SchedulerConfig { rules, weight: 1, threads: 1, replan: None };
        let statistics = Arc::new(ModelStatistics::default());
        let scheduler =
            Scheduler::start("test", config, executors.collect(), statistics, &host(instances)).unwrap();
        Self { scheduler, started, leave, answers: channel() }
    }

    fn submit(&self, value: i64, timeout: Duration) -> Result<Accepted> {
        let admitted = Admitted {
            inputs: vec![Tensor::from_vec(&[1], vec![value]).unwrap()],
            rows: 1,
            key: BatchKey::new(),
            class: 1,
            outputs: None,
            doubt: None,
            delay: Duration::ZERO,
            lingers: Duration::ZERO,
        };
        let answers = self.answers.0.clone();
        let reply: Reply = Box::new(move |answer| drop(answers.send((value, answer))));
        let accepted = self.scheduler.submit(admitted, timeout, reply);
        self.scheduler.wake();
        accepted
    }

    /// Submits a request that an instance runs at once.
    fn run(&self, value: i64, timeout: Duration) -> Accepted {
        let accepted = self.submit(value, timeout).unwrap();
        assert_eq!(self.started.recv().unwrap(), usize::try_from(value).unwrap());
        accepted
    }

    fn end(&self, value: i64, may_answer: bool) {
        self.leave[&value].send(may_answer).unwrap();
    }

    fn next(&self) -> (i64, std::result::Result<(), ErrorKind>) {
        let (value, answer) = self.answers.1.recv().unwrap();
        (value, answer.map(drop).map_err(|error| error.kind()))
    }

    /// Waits until so many answers are held.
    fn wait_until_held(&self, count: usize) {
        let held = || self.scheduler.shared.answers.as_ref().unwrap().held();
        while held() != count {
            std::thread::yield_now();
        }
    }
}

#[test]
fn answers_leave_in_the_order_of_their_requests() {
    let model = Ordered::new(3, 16);
    (0..3).for_each(|value| drop(model.run(value, LONG)));
    model.end(2, true);
    model.end(1, true);
    model.wait_until_held(2);
    assert!(model.answers.1.try_recv().is_err());
    model.end(0, true);
    assert_eq!([model.next(), model.next(), model.next()], [(0, Ok(())), (1, Ok(())), (2, Ok(()))]);
}

#[test]
fn who_fails_or_goes_holds_up_nobody_and_hears_of_it_at_once() {
    let model = Ordered::new(3, 16);
    let first = model.run(0, LONG);
    (1..3).for_each(|value| drop(model.run(value, LONG)));
    model.end(2, true);
    model.wait_until_held(1);
    model.end(1, false);
    assert_eq!(model.next(), (1, Err(ErrorKind::InvalidRequest)));
    model.scheduler.cancel(&first);
    assert_eq!(model.next(), (2, Ok(())), "while the first still runs");
    model.end(0, true);
    model.scheduler.close(LONG);
    assert!(model.answers.1.try_recv().is_err(), "who has gone hears nothing");
}

#[test]
fn an_answer_is_held_until_its_deadline_and_no_longer() {
    let model = Ordered::new(2, 16);
    model.run(0, LONG);
    model.run(1, Duration::from_millis(200));
    model.end(1, true);
    assert_eq!(model.next(), (1, Err(ErrorKind::DeadlineExceeded)), "while the first still runs");
    model.end(0, true);
    assert_eq!(model.next(), (0, Ok(())));
}

#[test]
fn no_more_answers_are_held_than_requests_may_wait() {
    let model = Ordered::new(2, 2);
    model.run(0, LONG);
    for value in 1..=2 {
        model.run(value, LONG);
        model.end(value, true);
        model.wait_until_held(usize::try_from(value).unwrap());
    }
    let error = model.submit(3, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(error.to_string().contains("2 answers wait for an earlier one"), "{error}");
    model.end(0, true);
    assert_eq!([model.next(), model.next(), model.next()], [(0, Ok(())), (1, Ok(())), (2, Ok(()))]);
    model.run(4, LONG);
    model.end(4, true);
    assert_eq!(model.next(), (4, Ok(())));
}
