//! Arrays in and out without a copy: an input borrows the caller's buffer, an output lends its memory.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use axon::request::{InferenceResponse, Inputs, NamedTensor};
use axon::{DataType, Error, Shape, Tensor};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use synapse::Memory;

/// Buffers that are no longer needed, released when a thread that holds the GIL passes by: an instance's thread
/// must not wait for the GIL. Bounded by the requests that can be in flight.
static RELEASED: Mutex<Vec<PyUntypedBuffer>> = Mutex::new(Vec::new());

/// Keeps an array's buffer exported while a tensor borrows it.
struct Borrowed(Option<PyUntypedBuffer>);

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            RELEASED.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// Releases the buffers that requests have finished with.
pub fn release_buffers(py: Python<'_>) {
    let released = std::mem::take(&mut *RELEASED.lock().unwrap_or_else(PoisonError::into_inner));
    for buffer in released {
        buffer.release(py);
    }
}

/// One input: its name (`None` for the only one), data type, shape, and a contiguous array or, for BYTES, a list of
/// bytes.
pub type NativeInput<'py> = (Option<String>, String, Vec<usize>, Bound<'py, PyAny>);

/// The inputs of a request.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) that names the input.
pub fn inputs(native: Vec<NativeInput<'_>>) -> axon::Result<Inputs> {
    let mut named = Vec::with_capacity(native.len());
    for (index, (name, datatype, shape, data)) in native.into_iter().enumerate() {
        let tensor = tensor(&datatype, &shape, &data, index)?;
        match name {
            Some(name) => named.push(NamedTensor::new(name, tensor)),
            None => return Ok(Inputs::One(tensor)),
        }
    }
    Ok(Inputs::Named(named))
}

fn tensor(datatype: &str, shape: &[usize], data: &Bound<'_, PyAny>, index: usize) -> axon::Result<Tensor> {
    let field = || format!("inputs[{index}]");
    let datatype: DataType = datatype.parse().map_err(|error| Error::invalid(field(), error))?;
    if datatype == DataType::Bytes {
        let list = data.cast::<PyList>().map_err(|error| Error::invalid(field(), error.to_string()))?;
        let elements: Result<Vec<Bound<'_, PyBytes>>, _> = list.iter().map(Bound::cast_into).collect();
        let elements =
            elements.map_err(|error| Error::invalid(field(), format!("expected bytes: {error}")))?;
        let elements: Vec<&[u8]> = elements.iter().map(PyBytesMethods::as_bytes).collect();
        return Tensor::from_elements(shape, &elements).map_err(|error| Error::invalid(field(), error));
    }
    let buffer = PyUntypedBuffer::get(data).map_err(|error| Error::invalid(field(), error))?;
    if !buffer.is_c_contiguous() {
        return Err(Error::invalid(field(), "expected a C-contiguous array"));
    }
    let (start, length) = (buffer.buf_ptr().cast_const().cast::<u8>(), buffer.len_bytes());
    let owner: Arc<dyn Any + Send + Sync> = Arc::new(Borrowed(Some(buffer)));
    // SAFETY: the exported buffer keeps `length` contiguous bytes at `start` alive and in place until `owner` is
    // dropped. That nobody writes them meanwhile is the caller's promise, as for every NumPy call that releases the
    // GIL; a broken promise garbles the caller's own answer.
    let memory = unsafe { Memory::from_raw(start, length, owner) };
    let shape = Shape::new(shape).map_err(|error| Error::invalid(field(), error))?;
    Tensor::new(datatype, shape, memory).map_err(|error| Error::invalid(field(), error))
}

/// The bytes of an output, read-only, for `numpy.ndarray(..., buffer=...)`.
#[pyclass(frozen, module = "axon._axon")]
pub struct Buffer {
    memory: Memory,
}

#[pymethods]
impl Buffer {
    /// Lends the bytes; the view keeps this object, and so the memory, alive.
    ///
    /// # Safety
    /// Called by the interpreter with a `view` to fill in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill in"));
        }
        let (start, length) = {
            let memory = &slf.get().memory;
            (memory.as_ptr().cast_mut().cast::<c_void>(), memory.len())
        };
        let length = ffi::Py_ssize_t::try_from(length)?;
        // SAFETY: `view` is valid (checked for null, given by the interpreter); the bytes live as long as `slf`, of
        // which the view takes a reference; the view is marked read-only.
        let status = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// The outputs of a response: for each its name, data type, shape, and a [`Buffer`] or, for BYTES, a list of bytes.
pub fn outputs(py: Python<'_>, response: InferenceResponse) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    let batch_rows = response.timing.batch_rows;
    for NamedTensor { name, tensor } in response.outputs {
        // An array that is kept must not keep its neighbours' rows: copied out of a shared batch, lent where alone.
        let is_shared = tensor.shape().rows().is_some_and(|rows| rows < batch_rows);
        let shape = PyTuple::new(py, tensor.shape().iter())?;
        let datatype = tensor.datatype();
        let data = if datatype == DataType::Bytes {
            PyList::new(py, tensor.elements().map(|element| PyBytes::new(py, element)))?.into_any()
        } else {
            let memory = if is_shared { Memory::copy_of(tensor.memory()) } else { tensor.into_memory() };
            Bound::new(py, Buffer { memory })?.into_any()
        };
        list.append((name, datatype.name(), shape, data))?;
    }
    Ok(list)
}
