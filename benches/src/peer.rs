//! The Python package: a process that answers one question at a time and waits in between, so that it
//! never runs while something else is timed.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tch::Device;

use crate::figures::{Figures, Served};

/// Names the interpreter with the packages; `cargo xtask bench` sets it.
const VARIABLE: &str = "TORCHCACHE_PEER_PYTHON";

const SCRIPT: &str = include_str!("../peer.py");

/// Longer than any answer takes, even on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The running process.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    questions: ChildStdin,
    /// Lines, from a thread that reads them: a read has no timeout.
    answers: Receiver<io::Result<String>>,
    timeout: Duration,
}

/// The peer's answers for one workload.
#[derive(Debug, Default)]
pub struct Answers {
    /// Its figures.
    pub figures: Figures,
    /// Milliseconds to read one input and write one output, the same ones each time.
    pub limit: Option<f64>,
    /// Rows of the last pass that differ from the forward, and the number of rows.
    pub wrong: Option<(u64, u64)>,
}

impl Peer {
    /// Starts it for tensors on `device`, or returns why it is not run.
    pub fn start(threads: usize, device: Device) -> Result<Self, String> {
        let python = env::var_os(VARIABLE).filter(|python| !python.is_empty());
        let python = python.ok_or_else(|| format!("{VARIABLE} is not set"))?;
        let mut command = Command::new(&python);
        command
            .args(["-c", SCRIPT, &threads.to_string()])
            .arg(match device {
                Device::Cuda(index) => format!("cuda:{index}"),
                _ => "cpu".to_owned(),
            })
            // cargo sets it for our libtorch; Python's torch has its own.
            .env_remove("LD_LIBRARY_PATH");
        Self::spawn(command, TIMEOUT)
            .map_err(|error| format!("{} does not start: {error}", python.display()))
    }

    fn spawn(mut command: Command, timeout: Duration) -> io::Result<Self> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = piped.spawn()?;
        let questions = process.stdin.take().expect("it is piped");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let (sender, answers) = channel();
        thread::spawn(move || lines.map(|line| sender.send(line)).all(|sent| sent.is_ok()));
        Ok(Peer {
            process,
            questions,
            answers,
            timeout,
        })
    }

    /// Asks one question and waits for the answer. After an error, do not ask again.
    fn ask(&mut self, question: &str) -> Result<Value, String> {
        let failed = |error: io::Error| format!("asked for `{question}`: {error}");
        writeln!(self.questions, "{question}")
            .and_then(|()| self.questions.flush())
            .map_err(failed)?;
        let answer = match self.answers.recv_timeout(self.timeout) {
            Ok(line) => line.map_err(failed)?,
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = self.timeout.as_secs();
                return Err(format!("no answer to `{question}` in {seconds} seconds"));
            }
        };
        let value: Value = serde_json::from_str(&answer)
            .map_err(|_| format!("ended when asked for `{question}`; its messages are above"))?;
        match value["error"].as_str() {
            Some(error) => Err(format!("asked for `{question}`: {error}")),
            None => Ok(value),
        }
    }

    /// `Python 3.12.1, torchcache 0.6.0, torch 2.13.0, numpy 2.4.6`.
    pub fn versions(&mut self) -> Result<String, String> {
        let value = self.ask("versions")?;
        let version = |name: &str| value[name].as_str().unwrap_or("?").to_owned();
        let names = ["python", "torchcache", "torch", "numpy"];
        let [python, peer, torch, numpy] = names.map(version);
        Ok(format!(
            "Python {python}, its torchcache {peer}, its torch {torch}, numpy {numpy}"
        ))
    }

    /// Creates the data of a workload.
    pub fn load(&mut self, workload: &str, batches: usize) -> Result<(), String> {
        self.ask(&format!("load {workload} {batches}")).map(drop)
    }

    /// Creates a batch of square images in bf16, for a module that returns as many numbers for each as a model does.
    pub fn load_images(&mut self, rows: i64, side: i64, columns: i64) -> Result<(), String> {
        let question = format!("load images 1 {rows} {side} {columns}");
        self.ask(&question).map(drop)
    }

    /// Measures its limit.
    pub fn limit(&mut self, to: &mut Answers) -> Result<(), String> {
        let limit = self.ask("limit")?["limit"].as_f64();
        to.limit = match (to.limit, limit) {
            (Some(before), Some(now)) => Some(before.min(now)),
            (before, now) => now.or(before),
        };
        Ok(())
    }

    /// One round over the loaded workload.
    pub fn round(&mut self, passes: usize, to: &mut Answers) -> Result<(), String> {
        self.memory(passes, to)?;
        self.measure("disk raw", to)?;
        self.measure("disk zstd", to)
    }

    /// The part of a round without files.
    pub fn memory(&mut self, passes: usize, to: &mut Answers) -> Result<(), String> {
        self.measure(&format!("memory {passes}"), to)
    }

    fn measure(&mut self, question: &str, to: &mut Answers) -> Result<(), String> {
        let value = self.ask(question)?;
        for (name, figure) in value.as_object().into_iter().flatten() {
            let served = serde_json::from_value::<Served>(name.as_str().into());
            if let (Ok(served), Some(figure)) = (served, figure.as_f64()) {
                to.figures.add(served, figure);
            }
        }
        if let (Some(wrong), Some(rows)) = (value["wrong"].as_u64(), value["rows"].as_u64()) {
            to.wrong = Some((wrong, rows));
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends at the end of its input; a process that hangs must not outlive this one.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str, timeout: Duration) -> Peer {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Peer::spawn(command, timeout).unwrap()
    }

    #[test]
    fn each_question_gets_its_answer() {
        let echo = "while read -r question; do echo \"{\\\"limit\\\": $question}\"; done";
        let mut peer = shell(echo, TIMEOUT);
        assert_eq!(peer.ask("1").unwrap()["limit"], 1);
        assert_eq!(peer.ask("2").unwrap()["limit"], 2);
    }

    #[test]
    fn a_round_takes_the_figures_of_an_answer() {
        let echo =
            "while read -r _; do echo '{\"disk_hit_zstd\": 4, \"wrong\": 1, \"rows\": 2}'; done";
        let mut answers = Answers::default();
        shell(echo, TIMEOUT).round(1, &mut answers).unwrap();
        assert_eq!(answers.figures.best(Served::DiskHitZstd), Some(4.0));
        assert_eq!(answers.wrong, Some((1, 2)));
    }

    #[test]
    fn an_error_of_the_peer_names_the_question() {
        let mut peer = shell("read -r question; echo '{\"error\": \"no room\"}'", TIMEOUT);
        assert_eq!(peer.ask("limit"), Err("asked for `limit`: no room".into()));
        let mut peer = shell("read -r question", TIMEOUT);
        assert!(peer.ask("limit").unwrap_err().starts_with("ended when"));
    }

    #[test]
    fn a_peer_that_hangs_is_killed_after_a_timeout() {
        let start = Instant::now();
        let mut peer = shell("exec sleep 600", Duration::from_millis(50));
        let reason = peer.ask("limit").unwrap_err();
        assert!(reason.starts_with("no answer to `limit`"), "{reason}");
        drop(peer); // waits for the process
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
