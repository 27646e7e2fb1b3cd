package http

import (
	"testing"
	"unsafe"

	"github.com/weirmesh/weir/proxy/conn"
)

// An idle client connection costs these two and a few words in the kernel's tables of the loop: 1 KiB is promised,
// buffers, exchanges and codecs are held by requests only.
func TestIdleConnectionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(server{}) + unsafe.Sizeof(conn.Conn{}); n > 624 { // 208 and 416, the allocator's sizes
		t.Errorf("%d bytes per idle connection", n)
	}
	if n := unsafe.Sizeof(Exchange{}); n > 1536 {
		t.Errorf("an exchange has %d bytes", n)
	}
}
