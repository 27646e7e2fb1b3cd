package hpack

import "github.com/weirmesh/weir/proxy/http/message"

// staticPairs is the static table (RFC 7541 appendix A), index 1 first.
var staticPairs = [...][2]string{
	{":authority", ""},
	{":method", "GET"},
	{":method", "POST"},
	{":path", "/"},
	{":path", "/index.html"},
	{":scheme", "http"},
	{":scheme", "https"},
	{":status", "200"},
	{":status", "204"},
	{":status", "206"},
	{":status", "304"},
	{":status", "400"},
	{":status", "404"},
	{":status", "500"},
	{"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"},
	{"accept-language", ""},
	{"accept-ranges", ""},
	{"accept", ""},
	{"access-control-allow-origin", ""},
	{"age", ""},
	{"allow", ""},
	{"authorization", ""},
	{"cache-control", ""},
	{"content-disposition", ""},
	{"content-encoding", ""},
	{"content-language", ""},
	{"content-length", ""},
	{"content-location", ""},
	{"content-range", ""},
	{"content-type", ""},
	{"cookie", ""},
	{"date", ""},
	{"etag", ""},
	{"expect", ""},
	{"expires", ""},
	{"from", ""},
	{"host", ""},
	{"if-match", ""},
	{"if-modified-since", ""},
	{"if-none-match", ""},
	{"if-range", ""},
	{"if-unmodified-since", ""},
	{"last-modified", ""},
	{"link", ""},
	{"location", ""},
	{"max-forwards", ""},
	{"proxy-authenticate", ""},
	{"proxy-authorization", ""},
	{"range", ""},
	{"referer", ""},
	{"refresh", ""},
	{"retry-after", ""},
	{"server", ""},
	{"set-cookie", ""},
	{"strict-transport-security", ""},
	{"transfer-encoding", ""},
	{"user-agent", ""},
	{"vary", ""},
	{"via", ""},
	{"www-authenticate", ""},
}

const staticLen = uint32(len(staticPairs))

// static holds the same as fields, by index.
var static = func() (t [staticLen + 1]Field) {
	for i, p := range staticPairs {
		t[i+1] = Field{Name: []byte(p[0]), Value: []byte(p[1]), Size: uint32(len(p[0])+len(p[1])) + overhead, Kind: kindOf([]byte(p[0]))}
	}
	return t
}()

// staticName is the index of a name's first entry, 0: it has none.
var staticName = func() (t [256]uint8) {
	for i := staticLen; i > 0; i-- {
		if k := static[i].Kind; k != Kind(message.OtherHeader) {
			t[k] = uint8(i)
		}
	}
	return t
}()
