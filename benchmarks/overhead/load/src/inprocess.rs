//! Axon's engine in this process: every caller is a task of one current-thread Tokio runtime.

use std::path::Path;
use std::time::Instant;

use axon::server::InferenceServer;

use crate::question::Question;
use crate::window::{self, Clock, Recorder, Result, Window};

/// Loads the model with every default.
pub fn serve_windows(model: &Path, question: &Question) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let server = runtime.block_on(InferenceServer::load(model))?;
    let answer = runtime.block_on(server.infer(&question.input(1)?))?;
    question.check(&answer.outputs.first().ok_or("an answer without outputs")?.tensor)?;
    window::serve(|window| runtime.block_on(measure(&server, question, window)))?;
    server.close();
    Ok(())
}

async fn measure(server: &InferenceServer, question: &Question, window: &Window) -> Result<Recorder> {
    let clock = Clock::start(window);
    let mut all = Recorder::new(clock);
    let input = question.input(window.rows)?;
    let callers: Vec<_> = (0..window.callers)
        .map(|_| {
            let (server, input) = (server.clone(), input.clone());
            tokio::spawn(async move {
                let mut recorder = Recorder::new(clock);
                let mut asked = Instant::now();
                while !clock.is_over(asked) {
                    let answer = server.infer(&input).await;
                    let answered = Instant::now();
                    match answer {
                        Ok(_) => recorder.answered(asked, answered),
                        Err(error) => recorder.failed(|| error.to_string()),
                    }
                    asked = answered;
                }
                recorder
            })
        })
        .collect();
    for caller in callers {
        all.merge(caller.await?);
    }
    Ok(all)
}
