package grpc_test

import (
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"testing"

	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/test/mesh"
)

const webService = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: grpc-web, port: 9090}
`

// TestGRPCWebIsTranslated: what a browser sends, in HTTP/1.1, reaches a gRPC server as gRPC, and its status comes back
// in the body.
func TestGRPCWebIsTranslated(t *testing.T) {
	m := mesh.New(t, nil)
	m.Config("web.yaml", webService)
	all := m.Workloads(
		mesh.Spec{Name: "client", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}},
		mesh.Spec{Name: "web", Owner: "web", ServiceAccount: "web", Labels: map[string]string{"app": "web"},
			Ports: []mesh.Port{{Name: "grpc-web", Number: 9090}}})
	client, server := all[0], all[1]
	serve(t, server)

	request, err := proto.Marshal(&testpb.SimpleRequest{ResponseSize: 5, Payload: &testpb.Payload{Body: []byte("hello")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ, method, trailers string
		size                  int // of the response's payload; -1: no message comes
	}{
		{"application/grpc-web+proto", "UnaryCall", "grpc-status:0\r\n", 5},
		{"application/grpc-web-text", "UnaryCall", "grpc-status:0\r\n", 5},
	} {
		body := frame(0, request)
		if strings.Contains(c.typ, "text") {
			body = []byte(base64.StdEncoding.EncodeToString(body))
		}
		r := client.Do(http.MethodPost, "http://web:9090/grpc.testing.TestService/"+c.method, body, "content-type: "+c.typ)
		if r.Err != nil || r.Status != 200 || r.Header.Get("content-type") != c.typ {
			t.Fatalf("%s: %v, content-type %q", c.typ, r, r.Header.Get("content-type"))
		}
		got := r.Body
		if strings.Contains(c.typ, "text") {
			got = nil
			// Parts that were padded by themselves: a group of four is the unit.
			for i := 0; i+4 <= len(r.Body); i += 4 {
				b, err := base64.StdEncoding.DecodeString(string(r.Body[i : i+4]))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b...)
			}
		}
		flag, message, got := cut(t, got)
		var answer testpb.SimpleResponse
		if err := proto.Unmarshal(message, &answer); err != nil || flag != 0 || len(answer.GetPayload().GetBody()) != c.size {
			t.Errorf("%s: message %x with flag %d: %v", c.typ, message, flag, err)
		}
		flag, trailers, rest := cut(t, got)
		if flag != 0x80 || !strings.Contains(string(trailers), c.trailers) || len(rest) != 0 {
			t.Errorf("%s: trailers %q with flag %x, then %q", c.typ, trailers, flag, rest)
		}
	}
	// A method that does not exist is answered with a head alone.
	r := client.Do(http.MethodPost, "http://web:9090/grpc.testing.TestService/None", frame(0, nil), "content-type: application/grpc-web")
	if r.Err != nil || r.Header.Get("grpc-status") != "12" {
		t.Errorf("unknown method: %v, grpc-status %q", r, r.Header.Get("grpc-status"))
	}
}

// frame is a message as gRPC has it on the wire: flag, length, bytes.
func frame(flag byte, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(b))), b...)
}

func cut(t *testing.T, b []byte) (flag byte, message, rest []byte) {
	t.Helper()
	if len(b) < 5 || len(b)-5 < int(binary.BigEndian.Uint32(b[1:])) {
		t.Fatalf("no frame: %x", b)
	}
	n := 5 + int(binary.BigEndian.Uint32(b[1:]))
	return b[0], b[5:n], b[n:]
}
