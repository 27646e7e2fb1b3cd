package nameproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// A client that is told to use the proxy calls services by their names, everything else
// as if there were no proxy, and what it sends arrives as it was.
func TestServe(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Got", r.Header.Get("X-Forwarded-For"))
		fmt.Fprintf(w, "%s %s %s %q", r.Method, r.Host, r.RequestURI, b)
	}))
	defer server.Close()
	at := netip.MustParseAddrPort(server.Listener.Addr().String())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Serve(l, func(host string, port uint16) (netip.AddrPort, bool, error) {
			switch {
			case host == "ratings" && port == 9080:
				return at, true, nil
			case host == "ratings":
				return netip.AddrPort{}, false, errors.New("service ratings has no such port")
			}
			return netip.AddrPort{}, false, nil
		})
	}()
	proxy := &url.URL{Scheme: "http", Host: l.Addr().String()}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy)}
	client := &http.Client{Transport: transport}
	for _, c := range []struct {
		name, method, url, body string
		status                  int
		want                    string
	}{
		{"a service", "GET", "http://ratings:9080/ratings/0", "", 200, `GET ratings:9080 /ratings/0 ""`},
		{"as it stands", "POST", "http://Ratings.:9080/a%2Fb;c?x=1;y=%zz", "hello", 200, `POST Ratings.:9080 /a%2Fb;c?x=1;y=%zz "hello"`},
		{"a port it does not have", "GET", "http://ratings/", "", 502, "weir: calling ratings: service ratings has no such port\n"},
		{"outside the mesh", "GET", server.URL + "/x", "", 200, "GET " + at.String() + ` /x ""`},
		{"not a proxy's request", "GET", proxy.String(), "", 400, "weir: this is an HTTP proxy: set http_proxy to its address and call http://SERVICE:PORT\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), c.method, c.url, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Forwarded-For", "192.0.2.1")
			client := client
			if c.url == proxy.String() {
				client = http.DefaultClient
				defer client.CloseIdleConnections()
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.status || string(b) != c.want || c.status == 200 && resp.Header.Get("X-Got") != "192.0.2.1" {
				t.Errorf("%d %v %s", resp.StatusCode, resp.Header, b)
			}
		})
	}
	transport.CloseIdleConnections()
	l.Close()
	<-done
}
