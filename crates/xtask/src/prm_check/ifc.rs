//! A reader of `mlx5_ifc.h`: structs in which each bit of a mailbox is one `u8`.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

/// The structs and numbers of the header, by name.
pub(super) struct Ifc {
    structs: HashMap<String, Struct>,
    numbers: HashMap<String, usize>,
}

/// A struct or union.
#[derive(Clone, Debug, Default)]
pub(super) struct Struct {
    pub(super) members: Vec<Member>,
    /// Size in bits without a trailing variable array; `None` when it rests on what the header
    /// does not define as a plain number.
    pub(super) bits: Option<usize>,
}

/// A member of a struct.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// First bit.
    pub(super) at: Option<usize>,
    /// Number of bits.
    pub(super) width: Option<usize>,
    /// Name of its struct, when it is not bits.
    pub(super) of: Option<String>,
}

impl Ifc {
    /// Reads the text of the header.
    ///
    /// # Errors
    /// There is no struct in it, or one that does not end.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = without_comments(text);
        let tokens: Vec<&str> = tokens(&text).collect();
        let mut ifc = Self {
            structs: HashMap::new(),
            numbers: HashMap::new(),
        };
        // A struct may stand before those that it is made of: read again while more sizes
        // come out.
        let mut known = None;
        while known != Some(ifc.sized()) {
            known = Some(ifc.sized());
            ifc.read(&tokens)?;
        }
        ensure!(!ifc.structs.is_empty(), "no structs");
        Ok(ifc)
    }

    fn sized(&self) -> usize {
        let sizes = self.structs.values().filter_map(|known| known.bits);
        sizes.count()
    }

    fn read(&mut self, tokens: &[&str]) -> Result<()> {
        let mut rest = tokens;
        while let [first, tail @ ..] = rest {
            match (*first, tail) {
                (kind @ ("struct" | "union"), [name, "{", body @ ..]) => {
                    let (parsed, after) =
                        self.body(kind, body).with_context(|| name.to_string())?;
                    self.structs.insert((*name).to_owned(), parsed);
                    rest = after;
                }
                (name, ["=", number, ..]) => {
                    if let Some(number) = literal(number) {
                        self.numbers.insert(name.to_owned(), number);
                    }
                    rest = tail;
                }
                _ => rest = tail,
            }
        }
        Ok(())
    }

    /// The struct `mlx5_ifc_NAME_bits`.
    pub(super) fn layout(&self, name: &str) -> Option<&Struct> {
        self.structs.get(&format!("mlx5_ifc_{name}_bits"))
    }

    /// The struct or union of a member.
    pub(super) fn of(&self, member: &Member) -> Option<&Struct> {
        self.structs.get(member.of.as_ref()?)
    }

    /// The value of an enumerator.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    /// Members up to the closing brace, and what follows it.
    fn body<'a, 't>(&self, kind: &str, mut rest: &'a [&'t str]) -> Result<(Struct, &'a [&'t str])> {
        let mut members = Vec::new();
        let (mut at, mut largest) = (Some(0), Some(0));
        loop {
            let (bits, of);
            match rest {
                ["}", tail @ ..] => {
                    let bits = if kind == "union" { largest } else { at };
                    return Ok((Struct { members, bits }, tail));
                }
                [inner @ ("struct" | "union"), "{", body @ ..] => {
                    let (parsed, after) = self.body(inner, body)?;
                    (bits, of, rest) = (parsed.bits, None, after);
                }
                ["struct" | "union", name, tail @ ..] => {
                    let known = self.structs.get(*name).and_then(|known| known.bits);
                    (bits, of, rest) = (known, Some((*name).to_owned()), tail);
                }
                ["u8", tail @ ..] => (bits, of, rest) = (Some(1), None, tail),
                _ => anyhow::bail!("a member begins with {:?}", rest.first()),
            }
            let end = rest.iter().position(|token| *token == ";");
            let (declared, after) = rest.split_at(end.context("a member does not end")?);
            rest = &after[1..];
            let width = declared
                .split(|token| *token == "[")
                .skip(1)
                .map(count)
                .try_fold(bits, |width, count| Some(Some(width? * count?)))
                .flatten();
            members.push(Member {
                name: declared.first().copied().unwrap_or_default().to_owned(),
                at,
                width,
                of,
            });
            if kind == "union" {
                largest = largest
                    .zip(width)
                    .map(|(largest, width)| largest.max(width));
            } else {
                at = at.zip(width).map(|(at, width)| at + width);
            }
        }
    }
}

/// The number before a closing bracket; a variable array counts nothing.
fn count(tokens: &[&str]) -> Option<usize> {
    match tokens {
        ["]"] => Some(0),
        [number, "]"] => literal(number),
        _ => None,
    }
}

fn literal(token: &str) -> Option<usize> {
    match token.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16).ok(),
        None => token.parse().ok(),
    }
}

fn without_comments(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut parts = text.split("/*");
    plain.extend(parts.next());
    for part in parts {
        plain.push(' ');
        plain.extend(part.split_once("*/").map(|(_, after)| after));
    }
    plain
}

/// Words and single marks.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = match word(first) {
            true => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (token, after) = rest.split_at(end);
        rest = after;
        Some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        enum { ONE = 0x1, /* = 3 */ LAST };
        struct mlx5_ifc_early_bits { struct mlx5_ifc_inner_bits late[3]; };
        struct mlx5_ifc_inner_bits { u8 a[0x3]; u8 reserved_at_3[0x1d]; };
        union mlx5_ifc_either_bits { struct mlx5_ifc_inner_bits one; u8 other[0x80]; };
        struct mlx5_ifc_outer_bits {
            u8         head[4][0x8];
            struct mlx5_ifc_inner_bits inner[2];
            union mlx5_ifc_either_bits either;
            union { struct { u8 x[0x8]; }; u8 y[0x10]; } anonymous;
            u8 sized_by[SOMETHING];
            u8 after[0x1];
            u8 pas[][0x40];
        };";

    #[test]
    fn offsets_add_up() -> Result<()> {
        let ifc = Ifc::parse(TEXT)?;
        let outer = ifc.layout("outer").context("outer")?;
        let found: Vec<_> = outer
            .members
            .iter()
            .map(|m| (m.name.as_str(), m.at, m.width))
            .collect();
        let expected = [
            ("head", Some(0), Some(32)),
            ("inner", Some(32), Some(64)),
            ("either", Some(96), Some(128)),
            ("anonymous", Some(224), Some(16)),
            ("sized_by", Some(240), None),
            ("after", None, Some(1)),
            ("pas", None, Some(0)),
        ];
        assert_eq!(found, expected);
        assert_eq!(outer.bits, None);
        assert_eq!(ifc.layout("inner").and_then(|inner| inner.bits), Some(32));
        assert_eq!(ifc.layout("early").and_then(|early| early.bits), Some(96));
        assert_eq!((ifc.number("ONE"), ifc.number("LAST")), (Some(1), None));
        Ok(())
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert!(Ifc::parse("int x;").is_err());
        assert!(Ifc::parse("struct a { u8 b[0x1];").is_err());
        assert!(Ifc::parse("struct a { int b; };").is_err());
    }
}
