//! Reads the text of a PTX file, as NVIDIA's compiler writes it: one statement a line.

use std::collections::{BTreeMap, HashMap};

use crate::definite::first_undefined;
use crate::error::Error;
use crate::instruction::{
    Access, Binary, Comparison, Guard, Instruction, Operation, Slot, Space, Width,
};
use crate::kernel::{Kernel, Parameter, SpecialSlots};

/// What a part of a statement cannot be.
type Problem = &'static str;

/// A line without its comment.
#[derive(Clone, Copy)]
struct Line<'t> {
    number: usize,
    text: &'t str,
}

impl Line<'_> {
    fn error(self, problem: Problem) -> Error {
        Error::Syntax {
            line: self.number,
            text: self.text.to_owned(),
            problem,
        }
    }
}

/// All kernels by name.
pub(crate) fn kernels(text: &str) -> Result<BTreeMap<String, Kernel>, Error> {
    let mut lines = (1..).zip(text.lines()).filter_map(|(number, line)| {
        let text = line.split("//").next().unwrap_or_default().trim();
        (!text.is_empty()).then_some(Line { number, text })
    });
    let mut kernels = BTreeMap::new();
    while let Some(line) = lines.next() {
        if let Some(name) = line.text.strip_prefix(".visible .entry ") {
            let name = name.strip_suffix('(');
            let name = name.ok_or_else(|| line.error("parameters begin on the next line"))?;
            kernels.insert(name.to_owned(), kernel(name, line, &mut lines)?);
        } else if line.text.starts_with(".address_size") {
            if line.text != ".address_size 64" {
                return Err(line.error("addresses have 64 bits"));
            }
        } else if ![".version ", ".target ", ".global "]
            .iter()
            .any(|known| line.text.starts_with(known))
        {
            return Err(line.error("unknown outside of kernels"));
        }
    }
    Ok(kernels)
}

fn kernel<'t>(
    name: &str,
    entry: Line<'t>,
    lines: &mut impl Iterator<Item = Line<'t>>,
) -> Result<Kernel, Error> {
    let mut builder = Builder::default();
    let mut part = Part::Parameters;
    for line in lines {
        let read = match (part, line.text) {
            (Part::Parameters, ")") => {
                part = Part::Directives;
                Ok(())
            }
            (Part::Parameters, text) => builder.parameter(text),
            (Part::Directives, "{") => {
                part = Part::Body;
                Ok(())
            }
            (Part::Directives, text) => builder.directive(text),
            (Part::Body, "}") => return builder.finish(name),
            (Part::Body, text) => builder.statement(line, text),
        };
        read.map_err(|problem| line.error(problem))?;
    }
    Err(entry.error("the kernel has no end"))
}

#[derive(Clone, Copy)]
enum Part {
    Parameters,
    Directives,
    Body,
}

/// What an operand can name.
#[derive(Clone, Copy)]
struct Name {
    slot: Slot,
    width: Width,
}

/// Registers with a common prefix: `%r0`, `%r1`, …
struct Registers {
    first: Slot,
    count: u32,
    width: Width,
}

#[derive(Default)]
struct Builder<'t> {
    parameters: Vec<Parameter>,
    parameter_names: HashMap<&'t str, Name>,
    max_threads: Option<u32>,
    registers: HashMap<&'t str, Registers>,
    special: HashMap<&'static str, Slot>,
    constants: HashMap<u64, Slot>,
    /// Addresses of variables in shared memory.
    variables: HashMap<&'t str, u64>,
    shared_bytes: u64,
    slots: Vec<u64>,
    labels: HashMap<&'t str, usize>,
    instructions: Vec<Instruction>,
    lines: Vec<Line<'t>>,
    /// Branches and their labels, which may be further down.
    branches: Vec<(usize, &'t str)>,
}

const SPECIAL: [&str; 4] = ["%tid.x", "%ctaid.x", "%ntid.x", "%nctaid.x"];

impl<'t> Builder<'t> {
    /// `.param .u64 name,`
    fn parameter(&mut self, text: &'t str) -> Result<(), Problem> {
        let text = text.strip_suffix(',').unwrap_or(text);
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, width) = match words[..] {
            [".param", ".u64", name] => (name, Width::Bits64),
            [".param", ".u32", name] => (name, Width::Bits32),
            _ => return Err("parameters are of type u32 or u64"),
        };
        let slot = self.slot(0);
        self.parameter_names.insert(name, Name { slot, width });
        self.parameters.push(Parameter {
            slot,
            bytes: width.bits() as usize / 8,
        });
        Ok(())
    }

    /// `.maxntid 128, 1, 1`
    fn directive(&mut self, text: &str) -> Result<(), Problem> {
        let sizes = text.strip_prefix(".maxntid ");
        let threads = sizes.and_then(|sizes| sizes.strip_suffix(", 1, 1"));
        let threads = threads.and_then(|threads| threads.parse().ok());
        self.max_threads = Some(threads.ok_or("unknown directive of a kernel")?);
        Ok(())
    }

    fn statement(&mut self, line: Line<'t>, text: &'t str) -> Result<(), Problem> {
        if let Some(label) = text.strip_suffix(':') {
            self.labels.insert(label, self.instructions.len());
            return Ok(());
        }
        let text = text.strip_suffix(';').ok_or("one statement a line")?;
        if let Some(registers) = text.strip_prefix(".reg ") {
            return self.declare_registers(registers);
        }
        if let Some(variable) = text.strip_prefix(".shared ") {
            return self.declare_shared(variable);
        }
        if text == ".pragma \"nounroll\"" {
            return Ok(());
        }
        let instruction = self.instruction(text)?;
        self.instructions.push(instruction);
        self.lines.push(line);
        Ok(())
    }

    /// `.b32 %r<36>`
    fn declare_registers(&mut self, text: &'t str) -> Result<(), Problem> {
        let (kind, names) = text.split_once(char::is_whitespace).unwrap_or_default();
        let width = match kind {
            ".pred" => Width::Predicate,
            ".b16" => Width::Bits16,
            ".b32" => Width::Bits32,
            ".b64" => Width::Bits64,
            _ => return Err("registers are predicates or have 16, 32 or 64 bits"),
        };
        let names = names.trim().strip_suffix('>');
        let (prefix, count) = names
            .and_then(|names| names.split_once('<'))
            .unwrap_or_default();
        let count: u32 = count.parse().map_err(|_| "registers are numbered")?;
        let first = self.slots.len() as Slot;
        self.slots.resize(self.slots.len() + count as usize, 0);
        let registers = Registers {
            first,
            count,
            width,
        };
        self.registers.insert(prefix, registers);
        Ok(())
    }

    /// `.align 8 .b8 name[1024]`
    fn declare_shared(&mut self, text: &'t str) -> Result<(), Problem> {
        const PROBLEM: Problem = "shared memory is an aligned array of bytes";
        let words: Vec<&str> = text.split_whitespace().collect();
        let [".align", align, ".b8", variable] = words[..] else {
            return Err(PROBLEM);
        };
        let (name, bytes) = variable.split_once('[').ok_or(PROBLEM)?;
        let bytes = bytes.strip_suffix(']').ok_or(PROBLEM)?;
        let (align, bytes): (u64, u64) = match (align.parse(), bytes.parse()) {
            (Ok(align @ 1..), Ok(bytes)) => (align, bytes),
            _ => return Err(PROBLEM),
        };
        let address = self.shared_bytes.next_multiple_of(align);
        self.variables.insert(name, address);
        self.shared_bytes = address + bytes;
        Ok(())
    }

    fn instruction(&mut self, text: &'t str) -> Result<Instruction, Problem> {
        let (guard, text) = match text.strip_prefix('@') {
            None => (None, text),
            Some(guarded) => {
                let (predicate, text) = guarded.split_once(' ').ok_or("a guard of nothing")?;
                let (expected, name) = match predicate.strip_prefix('!') {
                    Some(name) => (false, name),
                    None => (true, predicate),
                };
                let predicate = self.source(name, Width::Predicate)?;
                let guard = Guard {
                    predicate,
                    expected,
                };
                (Some(guard), text.trim())
            }
        };
        let (name, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let operation = self.operation(name, &operands_of(operands))?;
        Ok(Instruction { guard, operation })
    }

    fn operation(&mut self, name: &str, operands: &[&'t str]) -> Result<Operation, Problem> {
        const UNKNOWN: Problem = "unknown instruction";
        let words: Vec<&str> = name.split('.').collect();
        Ok(match (&words[..], operands) {
            (["ret"], []) => Operation::Return,
            (["bar", "sync"], ["0"]) => Operation::Barrier,
            (["bra"] | ["bra", "uni"], &[label]) => {
                self.branches.push((self.instructions.len(), label));
                Operation::Branch { target: usize::MAX }
            }
            (["ld", "param", kind], &[to, parameter]) => {
                let width = width_of(kind)?;
                let name = brackets(parameter).and_then(|name| self.parameter_names.get(name));
                let name = *name.ok_or("unknown parameter")?;
                if name.width != width {
                    return Err("the parameter has another width");
                }
                let (to, from) = (self.register(to, width)?, name.slot);
                Operation::Move { width, to, from }
            }
            (["ld", modifiers @ ..], &[to, address]) => {
                let (space, kind) = space_of(modifiers, true)?;
                let access = self.access(kind, to, address, true)?;
                Operation::Load { space, access }
            }
            (["st", modifiers @ ..], &[address, from]) => {
                let (space, kind) = space_of(modifiers, false)?;
                let access = self.access(kind, from, address, false)?;
                Operation::Store { space, access }
            }
            (["mov", kind] | ["cvta", "to", "global", kind], &[to, from]) => {
                let width = width_of(kind)?;
                let (to, from) = (self.register(to, width)?, self.source(from, width)?);
                Operation::Move { width, to, from }
            }
            (["cvt", "u64", "u32"], &[to, from]) => Operation::Move {
                width: Width::Bits32,
                to: self.register(to, Width::Bits64)?,
                from: self.source(from, Width::Bits32)?,
            },
            (["cvt", "u32", "u64"], &[to, from]) => Operation::Move {
                width: Width::Bits32,
                to: self.register(to, Width::Bits32)?,
                from: self.source(from, Width::Bits64)?,
            },
            (["not", kind], &[to, from]) => {
                let width = width_of(kind)?;
                let (to, from) = (self.register(to, width)?, self.source(from, width)?);
                Operation::Not { width, to, from }
            }
            (["setp", comparison, kind], &[to, a, b]) => {
                let width = width_of(kind)?;
                let flip = match kind.starts_with('s') {
                    true => 1 << (width.bits() - 1),
                    false => 0,
                };
                Operation::Compare {
                    comparison: comparison_of(comparison)?,
                    flip,
                    to: self.register(to, Width::Predicate)?,
                    from: [self.source(a, width)?, self.source(b, width)?],
                }
            }
            (["selp", kind], &[to, a, b, predicate]) => {
                let width = width_of(kind)?;
                Operation::Select {
                    to: self.register(to, width)?,
                    from: [self.source(a, width)?, self.source(b, width)?],
                    predicate: self.source(predicate, Width::Predicate)?,
                }
            }
            (["shf", direction @ ("l" | "r"), "wrap", "b32"], &[to, low, high, by]) => {
                let width = Width::Bits32;
                Operation::Funnel {
                    left: *direction == "l",
                    to: self.register(to, width)?,
                    from: [self.source(low, width)?, self.source(high, width)?],
                    by: self.source(by, width)?,
                }
            }
            (["mul", "wide", kind @ ("u16" | "u32")], &[to, a, b]) => {
                let (from, width) = match *kind {
                    "u16" => (Width::Bits16, Width::Bits32),
                    _ => (Width::Bits32, Width::Bits64),
                };
                Operation::Binary {
                    function: Binary::MultiplyWide,
                    width,
                    to: self.register(to, width)?,
                    from: [self.source(a, from)?, self.source(b, from)?],
                }
            }
            ([name @ .., kind], &[to, a, b]) => {
                let function = binary_of(name, kind).ok_or(UNKNOWN)?;
                let width = width_of(kind)?;
                let is_shift = matches!(function, Binary::ShiftLeft | Binary::ShiftRight);
                let width_of_b = if is_shift { Width::Bits32 } else { width };
                Operation::Binary {
                    function,
                    width,
                    to: self.register(to, width)?,
                    from: [self.source(a, width)?, self.source(b, width_of_b)?],
                }
            }
            _ => return Err(UNKNOWN),
        })
    }

    /// The operands of a load or store: `%r1` or `{%r1, %r2}`, and `[%rd1+4]`.
    fn access(
        &mut self,
        kind: &[&str],
        values: &'t str,
        address: &'t str,
        is_load: bool,
    ) -> Result<Access, Problem> {
        let (count, kind) = match kind {
            [kind] => (1, kind),
            ["v2", kind] => (2, kind),
            ["v4", kind] => (4, kind),
            _ => return Err("unknown kind of access"),
        };
        // A byte is in a register of 16 or 32 bits.
        let (element, widths) = match *kind {
            "u8" => (1, [Width::Bits32, Width::Bits16]),
            kind => (width_of(kind)?.bits() as u8 / 8, [width_of(kind)?; 2]),
        };
        let list = match values.strip_prefix('{') {
            Some(list) => operands_of(list.strip_suffix('}').ok_or("a list without an end")?),
            None => vec![values],
        };
        if list.len() != usize::from(count) || element * count > 16 || element == 0 {
            return Err("unknown kind of access");
        }
        let mut values = [0; 4];
        for (value, name) in values.iter_mut().zip(list) {
            let find = |builder: &mut Self, width| match is_load {
                true => builder.register(name, width),
                false => builder.source(name, width),
            };
            *value = find(self, widths[0]).or_else(|_| find(self, widths[1]))?;
        }
        let address = brackets(address).ok_or("an address is in brackets")?;
        let (base, offset) = address.split_once('+').unwrap_or((address, "0"));
        Ok(Access {
            base: self
                .source(base, Width::Bits64)
                .or_else(|_| self.source(base, Width::Bits32))?,
            offset: offset.parse().map_err(|_| "unknown offset")?,
            element,
            count,
            values,
        })
    }

    /// What an instruction writes to.
    fn register(&self, name: &str, width: Width) -> Result<Slot, Problem> {
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let prefix = &name[..name.len() - digits.len()];
        let registers = self.registers.get(prefix).ok_or("unknown register")?;
        if registers.width != width {
            return Err("the register has another width than the instruction");
        }
        match digits.parse::<u32>() {
            Ok(number) if number < registers.count => Ok(registers.first + number),
            _ => Err("unknown register"),
        }
    }

    /// What an instruction reads: a register, a special register, an address or a constant.
    fn source(&mut self, text: &'t str, width: Width) -> Result<Slot, Problem> {
        if let Some(&name) = SPECIAL.iter().find(|&&name| name == text) {
            return match width {
                Width::Bits32 => Ok(self.special(name)),
                _ => Err("special registers have 32 bits"),
            };
        }
        if text.starts_with('%') {
            return self.register(text, width);
        }
        if let Some(&address) = self.variables.get(text) {
            return Ok(self.constant(address));
        }
        let signed = text.parse::<i64>().map(|value| value as u64);
        let value = signed
            .or_else(|_| text.parse())
            .map_err(|_| "unknown operand")?;
        Ok(self.constant(width.truncate(value)))
    }

    fn special(&mut self, name: &'static str) -> Slot {
        if let Some(&slot) = self.special.get(name) {
            return slot;
        }
        let slot = self.slot(0);
        self.special.insert(name, slot);
        slot
    }

    fn constant(&mut self, value: u64) -> Slot {
        if let Some(&slot) = self.constants.get(&value) {
            return slot;
        }
        let slot = self.slot(value);
        self.constants.insert(value, slot);
        slot
    }

    fn slot(&mut self, value: u64) -> Slot {
        self.slots.push(value);
        self.slots.len() as Slot - 1
    }

    fn finish(mut self, name: &str) -> Result<Kernel, Error> {
        let end = self.instructions.len();
        for &(index, label) in &self.branches {
            let target = match self.labels.get(label) {
                Some(&target) if target < end => target,
                _ => return Err(self.lines[index].error("unknown label")),
            };
            self.instructions[index].operation = Operation::Branch { target };
        }
        let [thread, block, threads, blocks] = SPECIAL.map(|name| self.special(name));
        let ends = matches!(
            self.instructions.last(),
            Some(Instruction {
                guard: None,
                operation: Operation::Return | Operation::Branch { .. }
            })
        );
        if !ends {
            let last = self.lines.last().copied();
            let last = last.unwrap_or(Line {
                number: 0,
                text: "",
            });
            return Err(last.error("a kernel ends with a return or a branch"));
        }
        let registers = self.registers.values();
        let registers = registers.flat_map(|it| it.first..it.first + it.count);
        let undefined = first_undefined(&self.instructions, self.slots.len(), registers);
        if let Some(index) = undefined {
            return Err(self.lines[index].error("a register may be read before it is written"));
        }
        Ok(Kernel {
            name: name.to_owned(),
            parameters: self.parameters,
            max_threads: self.max_threads,
            shared_bytes: self.shared_bytes as usize,
            instructions: self.instructions,
            lines: self
                .lines
                .iter()
                .map(|line| (line.number, line.text.to_owned()))
                .collect(),
            slots: self.slots,
            special: SpecialSlots {
                thread,
                block,
                threads,
                blocks,
            },
        })
    }
}

/// The operands between commas that are not in braces.
fn operands_of(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn brackets(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

fn width_of(kind: &str) -> Result<Width, Problem> {
    match kind {
        "pred" => Ok(Width::Predicate),
        "b32" | "u32" | "s32" => Ok(Width::Bits32),
        "b64" | "u64" | "s64" => Ok(Width::Bits64),
        _ => Err("unknown type"),
    }
}

/// The space of a load or store, and what the modifiers after it say.
fn space_of<'w>(
    modifiers: &'w [&'w str],
    is_load: bool,
) -> Result<(Space, &'w [&'w str]), Problem> {
    match modifiers {
        ["global", "nc", kind @ ..] if is_load => Ok((Space::Global, kind)),
        ["global", kind @ ..] => Ok((Space::Global, kind)),
        ["shared", kind @ ..] => Ok((Space::Shared, kind)),
        kind @ ([_] | ["v2" | "v4", _]) => Ok((Space::Global, kind)),
        _ => Err("unknown kind of access"),
    }
}

fn comparison_of(name: &str) -> Result<Comparison, Problem> {
    Ok(match name {
        "eq" => Comparison::Equal,
        "ne" => Comparison::NotEqual,
        "lt" => Comparison::Less,
        "le" => Comparison::LessOrEqual,
        "gt" => Comparison::Greater,
        "ge" => Comparison::GreaterOrEqual,
        _ => return Err("unknown comparison"),
    })
}

/// The function with this name, if it is the same for numbers with and without a sign or `kind` has none.
fn binary_of(name: &[&str], kind: &str) -> Option<Binary> {
    Some(match (name, kind) {
        (["add"], "u32" | "s32" | "u64" | "s64") => Binary::Add,
        (["sub"], "u32" | "s32" | "u64" | "s64") => Binary::Subtract,
        (["mul", "lo"], "u32" | "s32" | "u64" | "s64") => Binary::Multiply,
        (["div"], "u32" | "u64") => Binary::Divide,
        (["rem"], "u32" | "u64") => Binary::Remainder,
        (["min"], "u32" | "u64") => Binary::Minimum,
        (["max"], "u32" | "u64") => Binary::Maximum,
        (["and"], "pred" | "b32" | "b64") => Binary::And,
        (["or"], "pred" | "b32" | "b64") => Binary::Or,
        (["xor"], "pred" | "b32" | "b64") => Binary::Xor,
        (["shl"], "b32" | "b64") => Binary::ShiftLeft,
        (["shr"], "u32" | "u64") => Binary::ShiftRight,
        _ => return None,
    })
}
