//go:build tools

// Package tools names the load generator of the tests and benchmarks.
package tools

import (
	_ "go.k6.io/k6"
)
