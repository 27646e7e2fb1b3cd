//go:build race

package file

// Parsing is 15 times slower under the race detector, and has nothing to race with.
const hugeFile = 2 << 20
