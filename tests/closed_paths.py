"""What changes a Triton server, and is no client's business: by HTTP, in disguise, and by gRPC."""

from __future__ import annotations

CLOSED = (
    "/v2/repository/index",
    "/v2/repository/models/digits/load",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/models/digits/trace/setting",
    "/v2/models/digits/versions/1/trace/setting",
    "/v2/systemsharedmemory/status",
    "/v2/systemsharedmemory/region/a/register",
    "/v2/cudasharedmemory/region/a/register",
)
DISGUISED = (
    "/v2/models/../../v2/logging",
    "/v2/models/%2e%2e/%2E%2e/v2/logging",
    "/v2/models/..;/logging",
    "/v2/l%6fgging",
    "//v2///logging",
    "/v2\\logging",
    "/v2/logging?a=b",
    "http://elsewhere/v2/logging",
    "/./v2/./logging/.",
)
CALLS = (
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "CudaSharedMemoryRegister"),
    *("TraceSetting", "LogSettings"),
)
