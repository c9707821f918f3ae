//! Every parser takes any bytes: mutated real messages and noise give a value or an error, never a panic.
//!
//! `WEFT_FUZZ_CASES=10000000 cargo test --release -p weft-wire --test wire` for a long run.

use crate::samples;
use weft_wire::Kind;
use weft_wire::header::Header;

/// xorshift64*: small, seeded, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[5]
    }
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.byte()),
            4 => bytes.extend((0..random.below(40)).map(|_| 0xff)),
            _ => {
                let end = (at + 4).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
        }
    }
}

fn cases() -> usize {
    std::env::var("WEFT_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000)
}

#[test]
fn bodies() {
    let samples = samples::all();
    let mut random = Random(0x5eed);
    for case in 0..cases() {
        let (_, kind, reply, body, payload) = &samples[case % samples.len()];
        let mut body = body.clone();
        mutate(&mut random, &mut body);
        // One in sixteen goes to another message's parser.
        let kind = match random.below(16) {
            0 => Kind::ALL[random.below(Kind::ALL.len())],
            _ => *kind,
        };
        samples::decode_any(kind, *reply, &body, *payload);
    }
}

#[test]
fn headers() {
    let samples = samples::all();
    let mut random = Random(0xface);
    let mut refused = 0;
    for case in 0..cases() {
        let mut frame = samples::frame(&samples[case % samples.len()]);
        let whole = frame.clone();
        mutate(&mut random, &mut frame);
        match Header::decode(&frame) {
            Ok(header) => {
                let unchanged = frame[..64] == whole[..64];
                assert!(unchanged, "a header that changed passed its checksum: {header:?}");
                let body = frame.get(64..64 + header.body_bytes as usize);
                if let Some(body) = body
                    && header.check_body(body).is_ok()
                {
                    assert_eq!(Some(body), whole.get(64..64 + body.len()));
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > cases() / 10, "the mutations reach the header");
}
