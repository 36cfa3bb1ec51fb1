//! `[--short] [--seed N] [NAME…]`: runs every scenario, or those that are named, in the long form or
//! the short one, and prints a line of the table for each, with tabs. With `child` first, it is one
//! of the processes that scenarios start.

use std::path::Path;
use std::process::ExitCode;

use crate::children;
use crate::scenarios::Part;

/// The whole program, for some parts.
pub fn main(parts: &[Part]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [child, role, dir, rest @ ..] if child == "child" => {
            let mut roles = parts.iter().flat_map(|part| part.roles);
            let found = roles.find(|(name, _)| name == role);
            let (_, play) = found.expect("a role that there is");
            play(Path::new(dir), rest);
            ExitCode::SUCCESS
        }
        words => match Wanted::parse(words, parts) {
            Ok(wanted) => run(&wanted, parts),
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        },
    }
}

#[derive(Default)]
struct Wanted {
    short: bool,
    seed: Option<u64>,
    names: Vec<String>,
}

impl Wanted {
    fn parse(words: &[String], parts: &[Part]) -> Result<Wanted, String> {
        let scenarios = || parts.iter().flat_map(|part| part.scenarios);
        let mut wanted = Wanted::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--short" => wanted.short = true,
                "--seed" => {
                    let seed = words.next().and_then(|seed| seed.parse().ok());
                    wanted.seed = Some(seed.ok_or("--seed wants a number")?);
                }
                name if scenarios().any(|scenario| scenario.name == name) => {
                    wanted.names.push(name.to_owned());
                }
                name => {
                    let names: Vec<_> = scenarios().map(|scenario| scenario.name).collect();
                    return Err(format!("got {name:?}; there are {}", names.join(", ")));
                }
            }
        }
        Ok(wanted)
    }
}

fn run(wanted: &Wanted, parts: &[Part]) -> ExitCode {
    let own = std::env::current_exe().expect("this program has a path");
    let seed = wanted.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let mut is_sound = true;
    let is_wanted =
        |name: &str| wanted.names.is_empty() || wanted.names.iter().any(|wanted| wanted == name);
    let scenarios = parts
        .iter()
        .flat_map(|part| part.scenarios.iter().map(move |scenario| (part, scenario)));
    for (part, scenario) in scenarios.filter(|(_, scenario)| is_wanted(scenario.name)) {
        children::set_program(own.with_file_name(part.program));
        let plan = match wanted.short {
            true => scenario.short(seed),
            false => scenario.long(seed),
        };
        let tally = (scenario.run)(&plan);
        let left_out = tally.left_out();
        println!("{}{left_out}\t{}", scenario.fault, tally.cells().join("\t"));
        if !left_out.is_empty() {
            eprintln!("{}{left_out}", scenario.name);
        }
        if let Err(failures) = tally.verdict() {
            eprintln!("{}: {failures}", scenario.name);
            is_sound = false;
        }
    }
    match is_sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
