//! Tensors in memory that the caller shares with the server, for both protocols.
//!
//! A request names parts of regions. They are found and measured when it is read, so that a wrong one is refused
//! before anything runs, and a part keeps its region for as long as the request lasts. An input is copied out
//! first and checked then: what was checked is what the model reads, whatever the caller writes meanwhile.
//!
//! **Source:** Triton's extension "shared memory".

use std::sync::Arc;
use std::{fmt, io};

use axon::error::{Echo, Error, ErrorKind, Result};
use axon::reason::Reason;
use axon::request::NamedTensor;
use synapse::{DataType, MemoryMut, Shape, Tensor};

use super::binary;
use super::field::Field;

/// The path of a tensor's region.
pub(super) const REGION: &str = "parameters.shared_memory_region";

/// The path of the size of a tensor's part.
pub(super) const BYTE_SIZE: &str = "parameters.shared_memory_byte_size";

/// The path of where a tensor's part begins.
pub(super) const OFFSET: &str = "parameters.shared_memory_offset";

/// The regions that callers share, by name.
pub trait Regions: Send + Sync {
    /// The region called `name`; it stays usable for as long as it is held.
    fn find(&self, name: &str) -> Result<Arc<dyn Region>, NoRegion>;
}

/// Memory that a caller shares, which may change or shrink at any time.
pub trait Region: fmt::Debug + Send + Sync {
    /// Its length in bytes, as registered.
    fn byte_size(&self) -> u64;

    /// Copies the bytes from `offset` on to all of `bytes`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the memory has become too short.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Copies `bytes` to where `offset` is.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the memory has become too short;
    /// [`io::ErrorKind::StorageFull`] when the host has no memory for it.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// Why there is no region of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRegion {
    /// The server was started without shared memory.
    Disabled,
    /// None is registered under this name.
    Unknown,
}

/// The regions of a server without shared memory.
pub(super) struct NoRegions;

impl Regions for NoRegions {
    fn find(&self, _: &str) -> Result<Arc<dyn Region>, NoRegion> {
        Err(NoRegion::Disabled)
    }
}

/// What a tensor's parameters say of shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedParameters {
    /// `shared_memory_region`: a region's name.
    pub region: Option<String>,
    /// `shared_memory_byte_size`: the bytes of an input, or the most bytes of an output.
    pub byte_size: Option<u64>,
    /// `shared_memory_offset`: the first byte in the region; 0 when not given.
    pub offset: Option<u64>,
}

impl SharedParameters {
    /// True when any of them is given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.region.is_some() || self.byte_size.is_some() || self.offset.is_some()
    }
}

/// Finds what one request names in shared memory.
pub struct Resolver<'a> {
    regions: &'a dyn Regions,
    limit: u64,
    left: u64,
}

impl<'a> Resolver<'a> {
    /// Finds in `regions`; the inputs of the request may have `limit` bytes together.
    pub fn new(regions: &'a dyn Regions, limit: u64) -> Self {
        Self { regions, limit, left: limit }
    }

    /// Where input number `index`, of this type and shape, is to be read.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] that names the parameter, or [`ErrorKind::RequestTooLarge`];
    /// [`ErrorKind::Unimplemented`] when the server has no shared memory.
    pub fn input(
        &mut self,
        index: usize,
        parameters: SharedParameters,
        datatype: DataType,
        shape: Shape,
    ) -> Result<SharedInput> {
        let part = self.part(Place::Input(index), parameters)?;
        let field = part.place.field(BYTE_SIZE);
        binary::check_size(field, None, datatype, &shape, part.byte_size)?;
        // A region may be backed by less memory than it is long, so its length bounds nothing.
        self.left = self.left.checked_sub(part.byte_size).ok_or_else(|| {
            let (limit, more) = (self.limit, part.byte_size - self.left);
            field.error(
                ErrorKind::RequestTooLarge,
                format_args!("expected inputs of at most {limit} bytes together, got {more} more"),
            )
        })?;
        Ok(SharedInput { part, datatype, shape })
    }

    /// Where output number `index` of those that the request lists is to be written.
    ///
    /// # Errors
    /// As [`input`](Self::input).
    pub fn output(&mut self, index: usize, parameters: SharedParameters) -> Result<SharedPart> {
        self.part(Place::Output(index), parameters)
    }

    fn part(&self, place: Place, parameters: SharedParameters) -> Result<SharedPart> {
        let name = parameters.region.ok_or_else(|| {
            place.field(REGION).invalid("required: expected the name of a registered region, got none")
        })?;
        let region = self.regions.find(&name).map_err(|problem| {
            match problem {
            NoRegion::Disabled => place.field(REGION).error(
                ErrorKind::Unimplemented,
                "client shared memory is disabled: expected JSON or binary data, or a server started with \
                 --allow-client-shm, got a shared memory region",
            )
            .because(Reason::SharedMemoryOff),
            NoRegion::Unknown => place
                .field(REGION)
                .invalid(format_args!("expected the name of a registered region, got {}", Echo(&name)))
                .because(Reason::UnknownRegion(name.clone())),
        }
        })?;
        let byte_size = parameters.byte_size.ok_or_else(|| {
            place.field(BYTE_SIZE).invalid("required: expected the number of bytes, got none")
        })?;
        let offset = parameters.offset.unwrap_or_default();
        let size = region.byte_size();
        let Some(left) = size.checked_sub(offset).filter(|&left| left > 0) else {
            return Err(place
                .field(OFFSET)
                .invalid(format_args!("expected less than {size}, the bytes of the region, got {offset}"))
                .because(Reason::RegionOffset(name)));
        };
        if byte_size > left {
            let problem = format_args!(
                "expected at most {left} bytes, which the region has from offset {offset} on, got {byte_size}"
            );
            return Err(place.field(BYTE_SIZE).invalid(problem).because(Reason::RegionRange(name)));
        }
        Ok(SharedPart { place, region, name, offset, byte_size })
    }
}

/// The tensor of a request that a part belongs to.
#[derive(Clone, Copy, Debug)]
enum Place {
    Input(usize),
    Output(usize),
}

impl Place {
    fn field(self, member: &'static str) -> Field {
        match self {
            Self::Input(index) => Field::input(index, member),
            Self::Output(index) => Field::output(index, member),
        }
    }
}

/// A part of a region, found and inside it.
#[derive(Clone, Debug)]
pub struct SharedPart {
    place: Place,
    region: Arc<dyn Region>,
    name: String,
    offset: u64,
    byte_size: u64,
}

impl SharedPart {
    /// The name of its region.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.name
    }

    /// Its first byte in the region.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length in bytes.
    #[must_use]
    pub fn byte_size(&self) -> u64 {
        self.byte_size
    }

    /// Checks that `output` has room.
    fn check_room(&self, output: &NamedTensor) -> Result<()> {
        let NamedTensor { name, tensor } = output;
        let (needed, byte_size) = (tensor.memory().len(), self.byte_size);
        if needed as u64 <= byte_size {
            return Ok(());
        }
        let (datatype, shape) = (tensor.datatype(), tensor.shape());
        let error = self.place.field(BYTE_SIZE).invalid(format_args!(
            "expected at least {needed} bytes, which {datatype} {shape} needs, got {byte_size}"
        ));
        let output = name.clone();
        Err(error.because(Reason::RegionTooSmall { output, got: byte_size, needed: needed as u64 }))
    }

    fn failed(&self, error: &io::Error) -> Error {
        let problem = match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "the backing file shrank: expected the bytes that were registered, got fewer"
            }
            io::ErrorKind::StorageFull => {
                "expected memory behind the whole region, got a part that the host has no memory for"
            }
            _ => "expected memory that can be read and written, got memory that cannot be",
        };
        self.place.field(REGION).invalid(problem).with_source(error)
    }
}

/// An input that is still to be copied out of shared memory.
#[derive(Debug)]
pub struct SharedInput {
    part: SharedPart,
    datatype: DataType,
    shape: Shape,
}

impl SharedInput {
    /// The bytes that [`read`](Self::read) copies.
    #[must_use]
    pub fn byte_size(&self) -> u64 {
        self.part.byte_size
    }

    /// Copies the input out of shared memory, and checks it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] when the region has shrunk, or the bytes are not of the data type.
    pub fn read(self) -> Result<Tensor> {
        let Self { part, datatype, shape } = self;
        let length = usize::try_from(part.byte_size).map_err(Error::internal)?;
        let mut memory = MemoryMut::zeroed(length);
        // The one copy: the region's bytes are the caller's, and may change at any time.
        part.region.read(part.offset, &mut memory).map_err(|error| part.failed(&error))?;
        binary::tensor(part.place.field(""), None, datatype, shape, memory.freeze())
    }
}

/// Writes each output that has a part to it, once all of them have room.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] when a part is too small (then nothing is written) or a region has shrunk.
pub fn write_outputs(outputs: &[NamedTensor], parts: &[Option<SharedPart>]) -> Result<()> {
    let pairs = || {
        let pairs = outputs.iter().zip(parts);
        pairs.filter_map(|(output, part)| part.as_ref().map(|part| (output, part)))
    };
    for (output, part) in pairs() {
        part.check_room(output)?;
    }
    for (output, part) in pairs() {
        part.region.write(part.offset, output.tensor.memory()).map_err(|error| part.failed(&error))?;
    }
    Ok(())
}
