use bytes::{Buf, Bytes, BytesMut};

use super::line::{Line, LineScanner, header_number};
use super::{ProtocolError, inline};

/// Longest line of a command in plain text, as in Redis.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Longest `*` or `$` line: a type byte, twenty digits and `\r`.
const HEADER_BYTES_MAX: usize = 32;

/// What one argument takes beside its bytes.
const ARGUMENT_OVERHEAD_BYTES: usize = size_of::<Bytes>();

/// Largest commands a decoder takes; its memory is bounded by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// Arguments of one command, its name included.
    pub args_max: usize,
    /// Bytes of one argument.
    pub arg_bytes_max: usize,
    /// Bytes of all arguments of one command, with 32 for each argument.
    pub command_bytes_max: usize,
}

impl Default for CommandLimits {
    /// As many arguments as Redis takes (1,048,576), 16 MiB each (twice the largest value a node stores, so that most
    /// oversized values are refused without losing the connection), 64 MiB together.
    fn default() -> Self {
        Self { args_max: 1 << 20, arg_bytes_max: 16 << 20, command_bytes_max: 64 << 20 }
    }
}

impl CommandLimits {
    /// What Redis allows to clients that have not given the password yet.
    pub(crate) const UNAUTHENTICATED: Self =
        Self { args_max: 10, arg_bytes_max: 16 << 10, command_bytes_max: 32 << 10 };
}

/// Cuts a byte stream into commands: arrays of bulk strings, or lines of plain text. Commands do not nest. Memory grows
/// with the bytes that have come, not with the lengths that are announced.
#[derive(Debug)]
pub struct CommandDecoder {
    limits: CommandLimits,
    buffer: BytesMut,
    line: LineScanner,
    array: Option<Array>,
    failed: Option<ProtocolError>,
}

/// An array whose arguments are not all there.
#[derive(Debug)]
struct Array {
    left: usize,
    args: Vec<Bytes>,
    bytes: usize,
    /// Length of the argument whose bytes come next.
    bulk: Option<usize>,
}

impl CommandDecoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new(limits: CommandLimits) -> Self {
        Self {
            limits,
            buffer: BytesMut::new(),
            line: LineScanner::default(),
            array: None,
            failed: None,
        }
    }

    /// Changes the limits for all that was not decoded yet.
    pub fn set_limits(&mut self, limits: CommandLimits) {
        self.limits = limits;
    }

    /// Where the stream's next bytes are to be appended. Decode all that is there before appending more.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole command: its name and arguments, never empty. `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream is not the protocol or goes beyond the limits; from then on always the same error.
    pub fn poll_command(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let polled = self.poll();
        if let Err(error) = &polled {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
            self.array = None;
        }
        polled
    }

    fn poll(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            if self.array.is_some() {
                return self.poll_array();
            }
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(count) = self.header("too big mbulk count string")? else {
                        return Ok(None);
                    };
                    self.begin_array(count)?;
                }
                Some(_) => match self.poll_inline()? {
                    Some(args) if args.is_empty() => {}
                    polled => return Ok(polled),
                },
            }
        }
    }

    fn poll_inline(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        match self.line.take(&mut self.buffer, INLINE_BYTES_MAX) {
            Line::Partial => Ok(None),
            Line::TooLong => Err(ProtocolError::new("too big inline request")),
            Line::Whole(line) => inline::split(&line, self.limits.args_max).map(Some),
        }
    }

    /// The number of a `*` or `$` line; the inner `None` is for one that is no number.
    fn header(&mut self, too_long: &str) -> Result<Option<Option<i64>>, ProtocolError> {
        match self.line.take(&mut self.buffer, HEADER_BYTES_MAX) {
            Line::Partial => Ok(None),
            Line::TooLong => Err(ProtocolError::new(too_long)),
            Line::Whole(line) => Ok(Some(header_number(&line))),
        }
    }

    fn begin_array(&mut self, count: Option<i64>) -> Result<(), ProtocolError> {
        let count = count.ok_or_else(|| ProtocolError::new("invalid multibulk length"))?;
        // An empty or null array is no command; Redis skips it too.
        if count <= 0 {
            return Ok(());
        }
        let left = usize::try_from(count).ok().filter(|&count| count <= self.limits.args_max);
        let left = left.ok_or_else(|| self.too_much("multibulk length"))?;
        // Room for usual commands; more only as the arguments really come.
        let args = Vec::with_capacity(left.min(8));
        self.array = Some(Array { left, args, bytes: 0, bulk: None });
        Ok(())
    }

    fn too_much(&self, what: &str) -> ProtocolError {
        let kind = if self.limits == CommandLimits::UNAUTHENTICATED {
            "unauthenticated"
        } else {
            "invalid"
        };
        ProtocolError::new(format!("{kind} {what}"))
    }

    fn poll_array(&mut self) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        while let Some(array) = &mut self.array {
            if let Some(length) = array.bulk {
                if self.buffer.len() < length + 2 {
                    return Ok(None);
                }
                let arg = self.buffer.split_to(length).freeze();
                if !self.buffer.starts_with(b"\r\n") {
                    return Err(ProtocolError::new("expected CRLF after bulk string"));
                }
                self.buffer.advance(2);
                array.args.push(arg);
                array.bulk = None;
                array.left -= 1;
                if array.left == 0 {
                    return Ok(self.array.take().map(|array| array.args));
                }
            } else if !self.poll_bulk_header()? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Reads the `$` line of the next argument; false when it is not all there.
    fn poll_bulk_header(&mut self) -> Result<bool, ProtocolError> {
        match self.buffer.first() {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&other) => {
                let other = char::from(other).escape_default();
                return Err(ProtocolError::new(format!("expected '$', got '{other}'")));
            }
        }
        let Some(length) = self.header("too big bulk count string")? else { return Ok(false) };
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(|| ProtocolError::new("invalid bulk length"))?;
        if length > self.limits.arg_bytes_max {
            return Err(self.too_much("bulk length"));
        }
        if let Some(array) = &mut self.array {
            array.bytes += length + ARGUMENT_OVERHEAD_BYTES;
            if array.bytes > self.limits.command_bytes_max {
                return Err(ProtocolError::new("too big command"));
            }
            array.bulk = Some(length);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: CommandLimits =
        CommandLimits { args_max: 4, arg_bytes_max: 10, command_bytes_max: 3 * 32 + 20 };

    type Outcome = (Vec<Vec<Bytes>>, Option<ProtocolError>);

    fn decode(bytes: &[u8], steps: &[usize]) -> Outcome {
        let mut decoder = CommandDecoder::new(LIMITS);
        let mut commands = Vec::new();
        let mut rest = bytes;
        let mut steps = steps.iter().cycle();
        loop {
            let step = steps.next().map_or(usize::MAX, |&step| step.max(1)).min(rest.len());
            decoder.buffer_mut().extend_from_slice(&rest[..step]);
            rest = &rest[step..];
            loop {
                match decoder.poll_command() {
                    Ok(Some(args)) => commands.push(args),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(decoder.poll_command(), Err(error.clone()));
                        return (commands, Some(error));
                    }
                }
            }
            if rest.is_empty() {
                return (commands, None);
            }
        }
    }

    fn check(bytes: &str, commands: &[&[&str]], error: Option<&str>) {
        for steps in [&[usize::MAX][..], &[1], &[3, 1]] {
            let (decoded, failed) = decode(bytes.as_bytes(), steps);
            assert_eq!(decoded, commands, "{bytes:?} by {steps:?}");
            let error = error.map(|error| format!("Protocol error: {error}"));
            assert_eq!(failed.map(|e| e.to_string()), error, "{bytes:?} by {steps:?}");
        }
    }

    #[test]
    fn commands_of_both_kinds_follow_each_other() {
        check("*1\r\n$4\r\nPING\r\n", &[&["PING"]], None);
        check(
            "PING\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\nPING x\n",
            &[&["PING"], &["GET", ""], &["PING", "x"]],
            None,
        );
        check("\r\n*0\r\n*-1\r\n\nPING\n", &[&["PING"]], None);
        check("*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n", &[&["GET", "a\r\nb"]], None);
        check("*2\r\n$3\r\nGET\r\n$4\r\na\r\n", &[], None);
    }

    #[test]
    fn what_is_not_the_protocol_is_refused() {
        check("*x\r\n", &[], Some("invalid multibulk length"));
        check("*1\n$4\r\n", &[], Some("invalid multibulk length"));
        check("*5\r\n", &[], Some("invalid multibulk length"));
        check("*99999999999999999999\r\n", &[], Some("invalid multibulk length"));
        check("*1\r\n$11\r\n", &[], Some("invalid bulk length"));
        check("*1\r\n$-1\r\n", &[], Some("invalid bulk length"));
        check("*1\r\n$+1\r\n", &[], Some("invalid bulk length"));
        check("*1\r\n$9223372036854775807\r\n", &[], Some("invalid bulk length"));
        check("*1\r\n*1\r\n", &[], Some("expected '$', got '*'"));
        check("*1\r\n:1\r\n", &[], Some("expected '$', got ':'"));
        check("PING\r\n*1\r\n$4\r\nPINGxx", &[&["PING"]], Some("expected CRLF after bulk string"));
        let zeros = "0".repeat(40);
        check(&format!("*{zeros}1\r\n"), &[], Some("too big mbulk count string"));
        check(&format!("*1\r\n${zeros}"), &[], Some("too big bulk count string"));
        check("GET \"a\n", &[], Some("unbalanced quotes in request"));
        let ten = "$10\r\n0123456789\r\n";
        check(&format!("*3\r\n{ten}{ten}{ten}"), &[], Some("too big command"));
    }

    #[test]
    fn endless_lines_end() {
        let (commands, error) = decode(&vec![b'a'; INLINE_BYTES_MAX + 1], &[4096]);
        assert!(commands.is_empty());
        assert_eq!(error, Some(ProtocolError::new("too big inline request")));
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let mut decoder = CommandDecoder::new(CommandLimits::default());
        decoder.buffer_mut().extend_from_slice(b"*1048576\r\n$16777216\r\n");
        assert_eq!(decoder.poll_command(), Ok(None));
        assert!(decoder.buffer.capacity() < 1024);
        assert!(decoder.array.as_ref().is_some_and(|array| array.args.capacity() <= 8));
    }

    #[test]
    fn limits_can_be_lifted_between_two_commands() {
        let mut decoder = CommandDecoder::new(CommandLimits::UNAUTHENTICATED);
        decoder.buffer_mut().extend_from_slice(b"PING\r\n*11\r\n");
        assert!(decoder.poll_command().unwrap().is_some());
        decoder.set_limits(CommandLimits::default());
        assert_eq!(decoder.poll_command(), Ok(None));
        let mut decoder = CommandDecoder::new(CommandLimits::UNAUTHENTICATED);
        decoder.buffer_mut().extend_from_slice(b"*11\r\n");
        let error = decoder.poll_command().unwrap_err();
        assert_eq!(error.to_string(), "Protocol error: unauthenticated multibulk length");
    }

    /// Mostly protocol, so that deep states are reached.
    fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => (0..6usize).prop_map(|n| format!("*{n}\r\n").into_bytes()),
            4 => "[a-z\r\n$]{0,11}".prop_map(|s| format!("${}\r\n{s}\r\n", s.len()).into_bytes()),
            1 => Just(b"PING a\r\n".to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same(
            bytes in nearly_right(),
            steps in proptest::collection::vec(1..9usize, 1..5),
        ) {
            prop_assert_eq!(decode(&bytes, &steps), decode(&bytes, &[usize::MAX]));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (commands, _) = decode(&bytes, &[7]);
            for command in commands {
                prop_assert!(!command.is_empty() && command.len() <= LIMITS.args_max);
            }
        }

        #[test]
        fn encoded_commands_come_back(
            commands in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 1..=3), 0..5
            )
        ) {
            let mut bytes = Vec::new();
            for args in &commands {
                bytes.extend(format!("*{}\r\n", args.len()).into_bytes());
                for arg in args {
                    bytes.extend(format!("${}\r\n", arg.len()).into_bytes());
                    bytes.extend(arg);
                    bytes.extend(b"\r\n");
                }
            }
            prop_assert_eq!(decode(&bytes, &[5]), (commands.into_iter().map(|c| c.into_iter().map(Bytes::from).collect()).collect(), None));
        }
    }
}
