package scripts

import (
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/weirmesh/weir/sample/echo"
)

// reporter tells of requests what the echo program does; in gRPC if grpc.
func reporter(name string, grpc bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		report := echo.Report{Hostname: name, Target: r.RequestURI, Host: r.Host, Proto: r.Proto, Method: r.Method}
		for _, k := range slices.Sorted(maps.Keys(r.Header)) {
			for _, v := range r.Header[k] {
				report.Headers = append(report.Headers, echo.Field{Name: k, Value: v})
			}
		}
		if r.TLS != nil {
			w.Header().Set("x-seen-sni", r.TLS.ServerName)
			if len(r.TLS.PeerCertificates) > 0 {
				w.Header().Set("x-seen-client", r.TLS.PeerCertificates[0].Subject.CommonName)
			}
		}
		body, _ := json.Marshal(report)
		if !grpc {
			_, _ = w.Write(body)
			return
		}
		status := r.Header.Get("x-grpc")
		if status == "" {
			status = "0"
		}
		w.Header().Set("content-type", "application/grpc")
		if status != "0" { // trailers only
			w.Header().Set("x-seen-pod", name)
			w.Header().Set("grpc-status", status)
			return
		}
		w.Header().Set("trailer", "grpc-status")
		_, _ = w.Write(append([]byte{0, byte(len(body) >> 24), byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...))
		w.Header().Set("grpc-status", status)
	}
}

func serve(t testing.TB, at string, s *http.Server, secured bool) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if secured {
			_ = s.ServeTLS(l, "", "")
		} else {
			_ = s.Serve(l)
		}
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
}

// serveGRPC answers gRPC in the clear.
func serveGRPC(t testing.TB, name, at string) {
	s := &http.Server{Handler: reporter(name, true), Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	serve(t, at, s, false)
}

// serveTLS answers HTTPS as web.example, and tells whom clients asked for and showed themselves as.
func serveTLS(t testing.TB, name, at string, v *vault) {
	serve(t, at, &http.Server{Handler: reporter(name, false), TLSConfig: &tls.Config{Certificates: []tls.Certificate{v.pairs["web"]}, ClientAuth: tls.RequestClientCert},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}, true)
}
