//! The second process: this test again, which serves the calls of the first one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tch::nn::{self, ModuleT};
use tch::{Device, Tensor};

use super::module::{Outer, input};
use super::steps::Kept;

/// Set for the process that serves.
const SERVES: &str = "TORCHCACHE_TEST_SERVES";

/// What an answer begins with, since the test harness prints to the same pipe.
const ANSWER: &str = "answer: ";

/// Does nothing, or serves the calls of another process.
#[test]
fn a_second_process_serves() {
    if std::env::var_os(SERVES).is_some() {
        serve();
    }
}

/// Serves lines `KEPT DIRECTORY WEIGHTS ROW…`: calls a module with the weights of a file on these rows,
/// writes the output next to that file, and answers how many rows were hits. The module lives until a
/// line whose `KEPT` is not `keep`; `clear` removes its rows first, and `end` calls nothing.
fn serve() {
    let mut kept = None;
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split(' ').collect();
        let [command, directory, weights, rows @ ..] = words.as_slice() else {
            panic!("unknown line {line:?}");
        };
        if *command != "keep" {
            kept = None;
        }
        if *command == "end" {
            println!("{ANSWER}ended");
            continue;
        }
        let outer = kept.get_or_insert_with(|| {
            let stores = [(); 2].map(|()| nn::VarStore::new(Device::Cpu));
            tch::no_grad(|| Outer::new(&stores[0], &stores[1], Path::new(directory)))
        });
        let (directory, weights) = (Path::new(directory), Path::new(weights));
        directory.clone_into(&mut outer.torchcache_persistent_cache_dir);
        directory.clone_into(&mut outer.inner.torchcache_persistent_cache_dir);
        outer.load(weights);
        let rows: Vec<i64> = rows.iter().map(|row| row.parse().expect("a row")).collect();
        let xs = input(&rows);
        let _guard = tch::no_grad_guard();
        if *command == "clear" {
            outer.forward_t(&xs, false);
            outer.torchcache.clear();
            outer.inner.torchcache.clear();
            outer.wrapped.cache().clear();
        }
        let before = outer.torchcache.stats();
        let output = outer.forward_t(&xs, false);
        let hits = outer.torchcache.stats().since(&before).hits();
        let written = output.save(weights.with_extension("output"));
        written.expect("the output is saved");
        println!("{ANSWER}{hits}");
    }
}

/// The process that serves the calls of all runs.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(super) fn start() -> Self {
        let test = format!("{}::a_second_process_serves", module_path!());
        let test = test.split_once("::").map(|(_, test)| test);
        let this = std::env::current_exe().expect("the path of this test");
        let mut command = Command::new(this);
        command
            .args(test)
            .args(["--exact", "--nocapture"])
            .env(SERVES, "1");
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("the process starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Process {
            child,
            input,
            output,
        }
    }

    /// Calls a module with the weights of a file. Returns the output and how many rows were hits.
    pub(super) fn call(
        &mut self,
        kept: Kept,
        directory: &Path,
        weights: &Path,
        rows: &[i64],
    ) -> (Tensor, u64) {
        let command = match kept {
            Kept::Keep => "keep",
            Kept::Reopen => "reopen",
            Kept::Clear => "clear",
        };
        let rows: Vec<String> = rows.iter().map(i64::to_string).collect();
        let (shown, file) = (directory.display(), weights.display());
        let answer = self.ask(&format!("{command} {shown} {file} {}", rows.join(" ")));
        let output = Tensor::load(weights.with_extension("output")).expect("the output");
        (output, answer.parse().expect("the number of hits"))
    }

    /// Drops the module, before its directory is removed.
    pub(super) fn end(&mut self) {
        assert_eq!(self.ask("end - -"), "ended");
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("the process reads");
        let mut answer = String::new();
        loop {
            answer.clear();
            let read = self.output.read_line(&mut answer);
            assert!(read.expect("the process answers") > 0, "the process ended");
            if let Some((_, answer)) = answer.split_once(ANSWER) {
                return answer.trim().to_owned();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to do where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
