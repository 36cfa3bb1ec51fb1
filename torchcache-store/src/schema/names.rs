//! Names for the tensors of an output, derived from its structure.

use std::fmt::Display;

/// A name for each of `count` tensors of an output: the path of fields, variants and keys to it, with positions in
/// tuples and vectors as numbers (`layers.0`). A key of a map that is no text is the number of its entry. An output that
/// is one tensor is called `output`. If structure and lengths do not give exactly `count` tensors, they are numbered:
/// `output.0`.
///
/// ```
/// use torchcache_store::schema::names;
///
/// assert_eq!(names("{pooled:T,layers:[T]}", &[2], 3), ["pooled", "layers.0", "layers.1"]);
/// assert_eq!(names("T", &[], 1), ["output"]);
/// ```
pub fn names(structure: &str, lengths: &[u32], count: usize) -> Vec<String> {
    let mut collected = TensorNames {
        lengths,
        names: Vec::new(),
        most: count,
    };
    let complete = Node::parse(structure).and_then(|root| collected.add(&root, ""));
    match complete {
        Some(()) if collected.names.len() == count && collected.lengths.is_empty() => {
            collected.names
        }
        _ => (0..count).map(|number| join("output", number)).collect(),
    }
}

/// The structure of an output.
enum Node<'a> {
    Tensor,
    Tuple(Vec<Node<'a>>),
    Vector(Box<Node<'a>>),
    Optional(Box<Node<'a>>),
    Map(Box<Node<'a>>),
    Struct(Vec<(&'a str, Node<'a>)>),
    Enum(Vec<(&'a str, Node<'a>)>),
    Constant,
}

/// Structures that are nested deeper are not parsed: no output type is.
const DEEPEST: usize = 64;

impl<'a> Node<'a> {
    /// Parses a whole text.
    fn parse(mut text: &'a str) -> Option<Self> {
        let root = Self::parse_node(&mut text, DEEPEST)?;
        text.is_empty().then_some(root)
    }

    fn parse_node(text: &mut &'a str, depth: usize) -> Option<Self> {
        let depth = depth.checked_sub(1)?;
        let next = text.chars().next()?;
        *text = &text[next.len_utf8()..];
        let parse = |text: &mut &'a str| Self::parse_node(text, depth);
        Some(match next {
            'T' => Node::Tensor,
            '=' => Node::Constant,
            '%' => Node::Map(parse(text)?.into()),
            '?' => Node::Optional(parse(text)?.into()),
            '[' => {
                let of = parse(text)?;
                *text = text.strip_prefix(']')?;
                Node::Vector(of.into())
            }
            '(' => {
                let mut elements = Vec::new();
                while !skip_char(text, ')') {
                    elements.push(parse(text)?);
                }
                Node::Tuple(elements)
            }
            '{' => Node::Struct(Self::parse_named(text, '}', parse)?),
            '<' => Node::Enum(Self::parse_named(text, '>', parse)?),
            _ => return None,
        })
    }

    /// Parses fields or variants up to `end`.
    fn parse_named(
        text: &mut &'a str,
        end: char,
        parse: impl Fn(&mut &'a str) -> Option<Self>,
    ) -> Option<Vec<(&'a str, Self)>> {
        let mut named = Vec::new();
        while !skip_char(text, end) {
            let (name, rest) = text.split_once(':')?;
            *text = rest;
            named.push((name, parse(text)?));
            skip_char(text, ',');
        }
        Some(named)
    }
}

fn skip_char(text: &mut &str, expected: char) -> bool {
    let rest = text.strip_prefix(expected);
    *text = rest.unwrap_or(text);
    rest.is_some()
}

/// The names of the tensors of one output so far.
struct TensorNames<'a> {
    lengths: &'a [u32],
    names: Vec<String>,
    /// Collecting stops when there are more names.
    most: usize,
}

impl TensorNames<'_> {
    fn add(&mut self, node: &Node<'_>, name: &str) -> Option<()> {
        if self.names.len() > self.most {
            return None;
        }
        match node {
            Node::Tensor => {
                let name = if name.is_empty() { "output" } else { name };
                self.names.push(name.to_owned());
            }
            Node::Tuple(elements) => {
                for (place, element) in elements.iter().enumerate() {
                    self.add(element, &join(name, place))?;
                }
            }
            Node::Struct(fields) => {
                for (field, node) in fields {
                    self.add(node, &join(name, field))?;
                }
            }
            Node::Enum(variants) => {
                let variant = usize::try_from(self.length()?).ok()?;
                let (variant, node) = variants.get(variant)?;
                self.add(node, &join(name, variant))?;
            }
            Node::Constant => {
                self.constant()?;
            }
            Node::Map(of) => {
                for place in 0..self.length()? {
                    let key = self.constant()?;
                    let key = text(&key).map_or_else(|| place.to_string(), str::to_owned);
                    self.add(of, &join(name, key))?;
                }
            }
            Node::Vector(of) => {
                for place in 0..self.length()? {
                    let left = (self.names.len(), self.lengths.len());
                    self.add(of, &join(name, place))?;
                    // An element without tensors could be repeated billions of times.
                    ((self.names.len(), self.lengths.len()) != left).then_some(())?;
                }
            }
            Node::Optional(of) => {
                if self.length()? > 0 {
                    self.add(of, name)?;
                }
            }
        }
        Some(())
    }

    fn length(&mut self) -> Option<u32> {
        let (first, rest) = self.lengths.split_first()?;
        self.lengths = rest;
        Some(*first)
    }

    /// The bytes of a plain value: their number, then four in each word.
    fn constant(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.length()?).ok()?;
        let words = length.div_ceil(size_of::<u32>());
        let (words, rest) = self.lengths.split_at_checked(words)?;
        self.lengths = rest;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(length);
        Some(bytes)
    }
}

/// The key of a map, if it is a text: the number of its bytes, then these.
fn text(key: &[u8]) -> Option<&str> {
    let (length, bytes) = key.split_first_chunk()?;
    let is_whole = u64::from_le_bytes(*length) == bytes.len() as u64;
    str::from_utf8(bytes).ok().filter(|_| is_whole)
}

fn join(name: &str, next: impl Display) -> String {
    match name {
        "" => next.to_string(),
        name => format!("{name}.{next}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_named_by_their_path() {
        assert_eq!(names("T", &[], 1), ["output"]);
        assert_eq!(names("(TT)", &[], 2), ["0", "1"]);
        assert_eq!(names("[(TT)]", &[2], 4), ["0.0", "0.1", "1.0", "1.1"]);
        assert_eq!(
            names("{a:T,inner:{b:[T],c:T}}", &[2], 4),
            ["a", "inner.b.0", "inner.b.1", "inner.c"]
        );
        assert_eq!(names("{a:?T,b:T}", &[0], 1), ["b"]);
        assert_eq!(names("{a:?[T],b:T}", &[1, 2], 3), ["a.0", "a.1", "b"]);
        assert_eq!(names("?{größe:T}", &[1], 1), ["größe"]);
        assert_eq!(names("[?T]", &[3, 0, 1, 0], 1), ["1"]);
        let variants = "<None:(),Pooled:(T),Tokens:{hidden:T,mask:T}>";
        assert_eq!(names(variants, &[1], 1), ["Pooled.0"]);
        assert_eq!(names(variants, &[2], 2), ["Tokens.hidden", "Tokens.mask"]);
        assert_eq!(names("{a:=,b:T,c:=}", &[5, 1, 2, 0], 1), ["b"]);
    }

    #[test]
    fn tensors_of_a_map_are_named_by_its_keys() {
        let (a, bc) = (u32::from(b'a'), 0x6362);
        let lengths = [2, 9, 1, 0, a, 10, 2, 0, bc];
        assert_eq!(names("%T", &lengths, 2), ["a", "bc"]);
        assert_eq!(names("{heads:%(TT)}", &lengths[..], 4)[2], "heads.bc.0");
        // Numbers, and a text with a byte that is no UTF-8.
        assert_eq!(names("%T", &[2, 4, 7, 4, 8], 2), ["0", "1"]);
        assert_eq!(names("%T", &[1, 9, 1, 0, 0xff], 1), ["0"]);
    }

    #[test]
    fn tensors_of_an_unfitting_structure_are_numbered() {
        let deep = "(".repeat(100_000);
        for structure in [
            "", "TT", "(T", "T)", "{a}", "{a:T", "[T]", "x", "?", "%T", "<a:T>", "=", "<a:T", &deep,
        ] {
            assert_eq!(
                names(structure, &[], 2),
                ["output.0", "output.1"],
                "{structure:.20}"
            );
        }
        assert_eq!(
            names("[T]", &[1, 1], 1),
            ["output.0"],
            "a length is left over"
        );
        assert_eq!(names("[()]", &[u32::MAX], 1), ["output.0"]);
        assert_eq!(names("[T]", &[u32::MAX], 1), ["output.0"]);
        assert_eq!(names("%()", &[u32::MAX], 1), ["output.0"]);
        assert_eq!(names("<a:T>", &[1], 1), ["output.0"], "no such variant");
        assert_eq!(names("=", &[u32::MAX], 1), ["output.0"]);
    }
}
