// Package faults is the catalogue of what can go wrong with a request: each fault is injected for real into a mesh with real
// proxies on both sides, and what `weir why` says of it is held against the truth.
//
// The rows enter (*_rows_test.go); docs/faults.md leaves, and a score: how many true causes come first, and how often the mesh is
// confident and wrong. Where a row fails, what proxies record or what control/why makes of it is to be mended, never the row.
// Rows of one mesh share its proxies and must not touch each other's services; no two run at once.
package faults
