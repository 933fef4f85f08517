//! ONNX Runtime alone: one thread, one session and one prepared input for each caller.
//!
//! A session for each thread and one thread for each run is its best setting on few cores: callers of one session meet
//! at its lock, and a run of several threads waits for the slowest.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use axon::config::Device;
use axon::onnx::{Session, SessionOptions, load_library};

use crate::question::Question;
use crate::window::{self, Clock, Recorder, Result, Window};

/// Loads as many sessions as the largest window has callers, when it comes.
pub fn serve_windows(model: &Path, question: &Question) -> Result<()> {
    load_library(None)?;
    let options = SessionOptions { device: Device::Cpu, threads: 1, arena: true };
    let mut sessions = vec![Session::load(model, options)?];
    check(&sessions, question, 1)?;
    window::serve(|window| {
        while sessions.len() < window.callers {
            sessions.push(Session::load(model, options)?);
        }
        check(&sessions, question, window.rows)?;
        measure(&sessions, question, window)
    })
}

fn check(sessions: &[Arc<Session>], question: &Question, rows: usize) -> Result<()> {
    for session in sessions {
        let answer = session.run(&[question.input(rows)?])?;
        question.check(answer.first().ok_or("an answer without outputs")?)?;
    }
    Ok(())
}

fn measure(sessions: &[Arc<Session>], question: &Question, window: &Window) -> Result<Recorder> {
    let clock = Clock::start(window);
    let mut all = Recorder::new(clock);
    std::thread::scope(|scope| {
        let callers = sessions.iter().take(window.callers);
        let threads: Vec<_> =
            callers.map(|session| scope.spawn(|| call(session, question, window.rows, clock))).collect();
        for thread in threads {
            all.merge(thread.join().map_err(|_| "a caller panicked")??);
        }
        Ok(all)
    })
}

fn call(session: &Arc<Session>, question: &Question, rows: usize, clock: Clock) -> Result<Recorder> {
    let mut recorder = Recorder::new(clock);
    let inputs = [question.input(rows)?];
    let mut asked = Instant::now();
    while !clock.is_over(asked) {
        let outputs = session.run(&inputs)?;
        drop(outputs);
        let answered = Instant::now();
        recorder.answered(asked, answered);
        asked = answered;
    }
    Ok(recorder)
}
