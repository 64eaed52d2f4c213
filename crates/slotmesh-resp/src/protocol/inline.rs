use bytes::Bytes;

use super::ProtocolError;

/// Splits a line as typed into telnet into arguments, with the quoting rules of Redis' `sdssplitargs`: blanks separate,
/// double quotes understand `\n \r \t \b \a \xhh` and `\"`, single quotes only `\'`, and a closing quote ends its argument.
pub(super) fn split(line: &[u8], args_max: usize) -> Result<Vec<Bytes>, ProtocolError> {
    let mut rest = Rest { bytes: line };
    let mut args = Vec::new();
    loop {
        while rest.peek().is_some_and(is_blank) {
            rest.next();
        }
        if rest.peek().is_none() {
            return Ok(args);
        }
        if args.len() >= args_max {
            return Err(ProtocolError::new("too many arguments"));
        }
        let arg = rest.argument().ok_or_else(|| ProtocolError::new("unbalanced quotes in request"));
        args.push(Bytes::from(arg?));
    }
}

struct Rest<'a> {
    bytes: &'a [u8],
}

impl Rest<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    fn argument(&mut self) -> Option<Vec<u8>> {
        let mut arg = Vec::new();
        while let Some(byte) = self.next() {
            match byte {
                b'"' => return self.double_quoted(arg),
                b'\'' => return self.single_quoted(arg),
                byte if is_blank(byte) => return Some(arg),
                byte => arg.push(byte),
            }
        }
        Some(arg)
    }

    fn double_quoted(&mut self, mut arg: Vec<u8>) -> Option<Vec<u8>> {
        loop {
            match self.next()? {
                b'"' => return self.at_end_of_argument().then_some(arg),
                b'\\' => arg.push(self.escaped()?),
                byte => arg.push(byte),
            }
        }
    }

    fn single_quoted(&mut self, mut arg: Vec<u8>) -> Option<Vec<u8>> {
        loop {
            match self.next()? {
                b'\'' => return self.at_end_of_argument().then_some(arg),
                b'\\' if self.peek() == Some(b'\'') => arg.push(self.next()?),
                byte => arg.push(byte),
            }
        }
    }

    fn escaped(&mut self) -> Option<u8> {
        if let [b'x', high, low, rest @ ..] = self.bytes
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            self.bytes = rest;
            return Some(high << 4 | low);
        }
        Some(match self.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'a' => 7,
            byte => byte,
        })
    }

    fn at_end_of_argument(&self) -> bool {
        self.peek().is_none_or(is_blank)
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<&[&str]>) {
        let args = split(line.as_bytes(), 8).ok();
        let expected = expected.map(|args| args.iter().map(|&arg| Bytes::from(arg.to_owned())));
        assert_eq!(args, expected.map(Iterator::collect), "{line}");
    }

    #[test]
    fn lines_split_like_redis_does() {
        check("", Some(&[]));
        check("  PING  \r", Some(&["PING"]));
        check("SET a b", Some(&["SET", "a", "b"]));
        check(r#"SET a "b c\n\x41\"" "#, Some(&["SET", "a", "b c\nA\""]));
        check(r"SET 'it\'s' '\n'", Some(&["SET", "it's", r"\n"]));
        check(r#"GET """#, Some(&["GET", ""]));
        check(r#"GET "a"b"#, None);
        check(r#"GET "a"#, None);
        check("GET 'a", None);
        check(r#"GET "\"#, None);
        check("1 2 3 4 5 6 7 8 9", None);
    }
}
