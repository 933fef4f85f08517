//! An open loop over HTTP/1.1: requests come at random moments (Poisson), whether or not earlier ones were answered.
//!
//! Latency counts from the moment at which a request was due, also when no connection was free then. Every request that
//! was due while the window was timed is counted once: answered, refused (503 or 504), or unsent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde_json::{Value, json};

use crate::http::{Connection, PATIENCE, connect, requests};
use crate::window::{self, Clock, Report, Result, Window, percentile};

/// The most requests that wait for a connection; what is due beyond is unsent.
const MAX_WAITING: usize = 100_000;

/// Asks with the bodies in the files `bodies`, each as often as the others.
pub fn serve_windows(address: SocketAddr, path: &str, bodies: &[PathBuf], headers: &[String]) -> Result<()> {
    let requests = requests(address, path, bodies, headers)?;
    window::serve(|window| {
        let rate = window.rate.filter(|rate| *rate > 0.0).ok_or("a window of an open loop needs a rate")?;
        Load::new(address, &requests, window, rate)?.run()
    })
}

/// What became of the requests that were due while the window was timed.
struct Outcome {
    clock: Clock,
    limit: Option<Duration>,
    latencies: Vec<Duration>,
    refused: u64,
    unsent: u64,
    failed: u64,
    first_failure: Option<String>,
    all_requests: u64,
}

impl Report for Outcome {
    fn report(mut self) -> Value {
        self.latencies.sort_unstable();
        let answered = self.latencies.len();
        let in_limit = self.limit.map(|limit| self.latencies.partition_point(|latency| *latency <= limit));
        json!({
            "all_requests": self.all_requests,
            "due": answered as u64 + self.refused + self.unsent + self.failed,
            "answered": answered,
            "in_limit": in_limit,
            "refused": self.refused,
            "unsent": self.unsent,
            "failed": self.failed,
            "first_failure": self.first_failure,
            "seconds": self.clock.length().as_secs_f64(),
            "p50_us": percentile(&self.latencies, 0.5),
            "p90_us": percentile(&self.latencies, 0.9),
            "p99_us": percentile(&self.latencies, 0.99),
            "max_us": percentile(&self.latencies, 1.0),
        })
    }
}

/// The moments at which requests are due, and which each is. SplitMix64 underneath: the same seed, the same moments.
struct Moments {
    state: u64,
    rate: f64,
    next: Instant,
}

impl Moments {
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn advance(&mut self) {
        // In (0, 1], so that its logarithm is finite.
        let uniform = ((self.random() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        self.next += Duration::from_secs_f64(-uniform.ln() / self.rate);
    }
}

struct Load<'a> {
    requests: &'a [Vec<u8>],
    poll: Poll,
    timer: rustix::fd::OwnedFd,
    connections: Vec<Connection>,
    /// The request that each connection is asking; none on a free one.
    asking: Vec<Option<usize>>,
    free: Vec<usize>,
    waiting: VecDeque<Instant>,
    moments: Moments,
    outcome: Outcome,
}

impl<'a> Load<'a> {
    fn new(address: SocketAddr, requests: &'a [Vec<u8>], window: &Window, rate: f64) -> Result<Self> {
        let poll = Poll::new()?;
        let connections = connect(address, &poll, window.callers)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let token = Token(connections.len());
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        let outcome = Outcome {
            clock: Clock::start(window),
            limit: window.limit_s.map(Duration::from_secs_f64),
            latencies: Vec::new(),
            refused: 0,
            unsent: 0,
            failed: 0,
            first_failure: None,
            all_requests: 0,
        };
        Ok(Self {
            requests,
            poll,
            timer,
            asking: vec![None; connections.len()],
            free: (0..connections.len()).collect(),
            connections,
            waiting: VecDeque::new(),
            moments: Moments { state: window.seed, rate, next: Instant::now() },
            outcome,
        })
    }

    fn run(mut self) -> Result<Outcome> {
        let mut events = Events::with_capacity(self.connections.len() + 1);
        let mut answered = Instant::now();
        loop {
            let now = Instant::now();
            self.ask_what_is_due(now)?;
            let is_over = self.outcome.clock.is_over(now);
            if is_over {
                // Whoever still waits for a connection would be answered too late to count.
                while let Some(due) = self.waiting.pop_front() {
                    self.outcome.unsent += u64::from(self.outcome.clock.counts(due));
                }
            }
            if is_over && self.free.len() == self.connections.len() {
                return Ok(self.outcome);
            }
            if answered.elapsed() > PATIENCE {
                return Err("the server has not answered for too long".into());
            }
            self.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
            for event in &events {
                if self.receive(event.token().0)? {
                    answered = Instant::now();
                }
            }
        }
    }

    /// Asks what is due at `now`, and has the timer wake this thread for what is due next.
    fn ask_what_is_due(&mut self, now: Instant) -> Result<()> {
        while self.moments.next <= now && !self.outcome.clock.is_over(self.moments.next) {
            let due = self.moments.next;
            self.moments.advance();
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(due);
            } else {
                self.outcome.unsent += u64::from(self.outcome.clock.counts(due));
            }
        }
        while let (Some(&index), Some(&due)) = (self.free.last(), self.waiting.front()) {
            self.free.pop();
            self.waiting.pop_front();
            #[expect(clippy::cast_possible_truncation, reason = "a remainder of a length")]
            let which = (self.moments.random() % self.requests.len() as u64) as usize;
            self.asking[index] = Some(which);
            self.connections[index].ask(due, &self.requests[which])?;
        }
        if !self.outcome.clock.is_over(now) {
            self.wake_at(self.moments.next)?;
        }
        Ok(())
    }

    fn wake_at(&self, moment: Instant) -> Result<()> {
        // Nothing at all would switch the timer off.
        let wait = moment.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs())?,
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Goes on with a connection; true when its answer is whole.
    fn receive(&mut self, index: usize) -> Result<bool> {
        // The timer's token is none of theirs: it has woken this thread, which is all that it is for.
        let Some(&Some(which)) = self.asking.get(index) else { return Ok(false) };
        let connection = &mut self.connections[index];
        connection.send(&self.requests[which])?;
        let Some(status) = connection.receive()? else { return Ok(false) };
        let (due, now) = (connection.asked, Instant::now());
        self.outcome.all_requests += 1;
        if self.outcome.clock.counts(due) {
            match status {
                200 => self.outcome.latencies.push(now - due),
                503 | 504 => self.outcome.refused += 1,
                _ => {
                    self.outcome.failed += 1;
                    self.outcome.first_failure.get_or_insert_with(|| connection.answer());
                }
            }
        }
        self.asking[index] = None;
        self.free.push(index);
        Ok(true)
    }
}
