//! Event files for TensorBoard: records of the format TFRecord, each a protocol buffer `tensorflow.Event`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use transdiff_core::{Error, Result};

/// Signature and size field of a PNG file before width and height.
const PNG_HEAD: usize = 16;

/// An event file. Records are written whole: a process that is killed leaves at most one record incomplete, which
/// TensorBoard ignores.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a new event file in `directory`, for a run that goes on after `step` steps. TensorBoard drops what files of
    /// earlier processes say about later steps.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(directory: &Path, step: u64) -> Result<Self> {
        let now = since_epoch();
        // TensorBoard reads the files of a directory in the order of their names.
        let name = format!("events.out.tfevents.{:010}.{:09}.transdiff", now.as_secs(), now.subsec_nanos());
        let path = directory.join(name);
        let file = File::options().append(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        let mut events = Self { path, file };
        events.write(&Event::new(now, 0).version())?;
        // It drops the steps from this one on.
        events.write(&Event::new(now, step + 1).session_start())?;
        Ok(events)
    }

    /// Writes a value after `step` steps under the name `tag`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<()> {
        self.write(&Event::new(since_epoch(), step).scalar(tag, value as f32))
    }

    /// Writes an image, the contents of a PNG file, after `step` steps under the name `tag`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `png` is no PNG file; [`Error::Io`].
    pub fn image(&mut self, step: u64, tag: &str, png: &[u8]) -> Result<()> {
        let size = png.starts_with(b"\x89PNG\r\n\x1a\n").then(|| png.get(PNG_HEAD..PNG_HEAD + 10)).flatten();
        let Some(&[w0, w1, w2, w3, h0, h1, h2, h3, _, color]) = size else {
            return Err(Error::argument("png", "the contents of a PNG file", format!("{} bytes", png.len())));
        };
        let (width, height) = (u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
        // Grey, RGB, palette, grey with alpha, RGB with alpha; TensorBoard has numbers of channels.
        let channels = match color {
            0 => 1,
            4 => 2,
            6 => 4,
            _ => 3,
        };
        let image = Image { width, height, channels, png };
        self.write(&Event::new(since_epoch(), step).image(tag, &image))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&record(event)).map_err(Error::io(&self.path))
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A record of the format TFRecord: length, checksum of the length, data, checksum of the data.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted as the format has it, so that a checksum of checksums is none.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

struct Image<'a> {
    width: u32,
    height: u32,
    channels: u32,
    png: &'a [u8],
}

/// A protocol buffer `tensorflow.Event` without its contents.
struct Event(Message);

impl Event {
    fn new(time: Duration, step: u64) -> Self {
        let mut event = Message::default();
        event.double(1, time.as_secs_f64());
        event.varint(2, step);
        Self(event)
    }

    fn version(mut self) -> Vec<u8> {
        self.0.bytes(3, b"brain.Event:2");
        self.0.0
    }

    /// `SessionLog` with the status `START`.
    fn session_start(mut self) -> Vec<u8> {
        let mut session = Message::default();
        session.varint(1, 1);
        self.0.bytes(7, &session.0);
        self.0.0
    }

    fn scalar(self, tag: &str, value: f32) -> Vec<u8> {
        let mut summary = Message::default();
        summary.bytes(1, tag.as_bytes());
        summary.float(2, value);
        self.summary(&summary)
    }

    fn image(self, tag: &str, image: &Image<'_>) -> Vec<u8> {
        let mut encoded = Message::default();
        encoded.varint(1, image.height.into());
        encoded.varint(2, image.width.into());
        encoded.varint(3, image.channels.into());
        encoded.bytes(4, image.png);
        let mut summary = Message::default();
        summary.bytes(1, tag.as_bytes());
        summary.bytes(4, &encoded.0);
        self.summary(&summary)
    }

    /// A `Summary` with one value.
    fn summary(mut self, value: &Message) -> Vec<u8> {
        let mut summary = Message::default();
        summary.bytes(1, &value.0);
        self.0.bytes(5, &summary.0);
        self.0.0
    }
}

/// An encoded protocol buffer.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// An integer. Zero is the value of a field that is left out.
    fn varint(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.raw_varint(field << 3);
            self.raw_varint(value);
        }
    }

    fn double(&mut self, field: u64, value: f64) {
        self.raw_varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.raw_varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    /// Seven bits per byte, the lowest first; the highest bit says that more follow.
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn event(step: u64) -> Event {
        Event::new(Duration::from_millis(1500), step)
    }

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
    }

    /// As the package `tensorboard` writes the same events.
    #[test]
    fn records_are_those_of_tensorboard() {
        let image = Image { width: 3, height: 2, channels: 1, png: b"png" };
        for (event, expected) in [
            (
                event(0).version(),
                "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c",
            ),
            (event(300).session_start(), "100000000000000095fbfe1809000000000000f83f10ac023a020801713b788a"),
            (
                event(300).scalar("loss/train", 0.25),
                "2100000000000000017becf609000000000000f83f10ac022a130a110a0a6c6f73732f747261696e150000803e6c5611a4",
            ),
            (
                event(300).image("samples", &image),
                "2600000000000000734fe30009000000000000f83f10ac022a180a160a0773616d706c6573220b0802100318012203706e6765797992",
            ),
        ] {
            assert_eq!(hex(&record(&event)), expected);
        }
    }

    #[test]
    fn images_have_to_be_png_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 0).unwrap();
        for bytes in [&b""[..], b"\x89PNG\r\n\x1a\n\0\0", b"JPEG, and more than twenty-six bytes of it"] {
            let message = events.image(1, "samples", bytes).unwrap_err().to_string();
            assert!(message.contains("expected the contents of a PNG file"), "{message}");
        }
    }
}
