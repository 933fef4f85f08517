//! Server reflection: what services there are, for tools such as `grpcurl`.

use axon::{Error, Result};
use hyper::body::Incoming;
use hyper::{Request, Response};
use tonic::body::Body;
use tower_service::Service as _;

use super::body::GrpcBody;
use crate::proto::DESCRIPTORS;

const V1: &str = "/grpc.reflection.v1.ServerReflection/";
const V1_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/";

/// True for a path of the reflection services.
pub(super) fn is_asked(path: &str) -> bool {
    path.starts_with(V1) || path.starts_with(V1_ALPHA)
}

type Answering = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Service = std::sync::Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// Both versions of the reflection service.
#[derive(Clone)]
pub(super) struct Reflection {
    v1: Service,
    v1alpha: Service,
}

impl Reflection {
    pub fn new() -> Result<Self> {
        let builder = || {
            tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS)
        };
        let v1 = builder().build_v1().map_err(Error::internal)?;
        let v1alpha = builder().build_v1alpha().map_err(Error::internal)?;
        Ok(Self {
            v1: service(move |request| {
                let mut server = v1.clone();
                async move { server.call(request).await.unwrap_or_else(|never| match never {}) }
            }),
            v1alpha: service(move |request| {
                let mut server = v1alpha.clone();
                async move { server.call(request).await.unwrap_or_else(|never| match never {}) }
            }),
        })
    }

    pub async fn answer(&self, request: Request<Incoming>) -> Response<GrpcBody> {
        let service = if request.uri().path().starts_with(V1) { &self.v1 } else { &self.v1alpha };
        service(request).await.map(GrpcBody::Reflection)
    }
}

fn service<F: Future<Output = Response<Body>> + Send + 'static>(
    call: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
) -> Service {
    std::sync::Arc::new(move |request| Box::pin(call(request)))
}
