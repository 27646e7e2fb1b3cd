package state

import (
	"fmt"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"

	"github.com/weirmesh/weir/proxy/observe"
)

// A mesh writes its format into each of thousands of listeners, and connections that stay hold listeners of long ago: all of them have the
// compiled format once. Formats are told apart, and none that were ever sent is remembered for ever.
func TestFormatsOfAccessLogsAreShared(t *testing.T) {
	b := newBuilder()
	read := func(format string) *observe.Format {
		t.Helper()
		l := fromText(t, fmt.Sprintf(`typed_config { [type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog] { path: "/dev/stdout" log_format { text_format_source { inline_string: %q } } } }`, format), &accesslogv3.AccessLog{})
		out, err := b.logs([]*accesslogv3.AccessLog{l}, "x")
		if err != nil {
			t.Fatal(err)
		}
		return out[0].Format
	}
	one := read("%PROTOCOL%\n")
	if read("%PROTOCOL%\n") != one {
		t.Error("the same format was compiled twice")
	}
	if read("%START_TIME%\n") == one {
		t.Error("two formats were taken for one")
	}
	for i := range 10 * maxFormats {
		read(fmt.Sprintf("%d %%PROTOCOL%%\n", i))
		if len(b.formats) > maxFormats {
			t.Fatalf("%d formats are remembered, at most %d should be", len(b.formats), maxFormats)
		}
	}
}
