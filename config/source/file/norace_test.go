//go:build !race

package file

const hugeFile = 50 << 20
