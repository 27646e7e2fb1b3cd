package curl

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/none":
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "none")
		case "/slow":
			<-r.Context().Done()
		case "/cut":
			panic(http.ErrAbortHandler)
		default:
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s%s %s %s%s\n", r.Method, r.Host, r.URL, r.Header.Get("X-Who"), r.Header.Get("Content-Type"), b)
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewUnstartedServer(handler)
	secure.EnableHTTP2 = true
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	host := strings.TrimPrefix(plain.URL, "http://")
	_, port, _ := net.SplitHostPort(host)
	file := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		name string
		args []string
		want string // of stdout, with HOST for the server's address
		code int
	}{
		{"plain", []string{host + "/a?b=c"}, "GET HOST/a?b=c  \n", 0},
		{"header and host", []string{"-sS", "-H", "X-Who: me", "-HHost: shop", plain.URL}, "GET shop/ me \n", 0},
		{"data", []string{"-s", "-d", "a=b", "-d", "c", plain.URL + "/x"}, "POST HOST/x  application/x-www-form-urlencodeda=b&c\n", 0},
		{"method", []string{"-XPUT", plain.URL}, "PUT HOST/  \n", 0},
		{"status only", []string{"-s", "-o", os.DevNull, "-w", `%{http_code} %{http_version} %{size_download}\n`, plain.URL + "/none"}, "404 1.1 4\n", 0},
		{"into a file", []string{"-so", file, plain.URL}, "", 0},
		{"fail", []string{"-f", plain.URL + "/none"}, "", refused},
		{"not followed", []string{"-w", "%{http_code} %{redirect_url}", "-o", os.DevNull, plain.URL + "/moved"}, "302 /there", 0},
		{"followed", []string{"-L", plain.URL + "/moved"}, "GET HOST/there  \n", 0},
		{"two URLs", []string{host + "/1", host + "/2"}, "GET HOST/1  \nGET HOST/2  \n", 0},
		{"a name given an address", []string{"--resolve", "shop.test:" + port + ":127.0.0.1", "http://shop.test:" + port + "/"}, "GET shop.test:" + port + "/  \n", 0},
		{"no trust", []string{secure.URL}, "", untrusted},
		{"trust", []string{"-k", "-w", " %{http_version}", secure.URL + "/none"}, "none 2", 0},
		{"not TLS", []string{"-k", strings.Replace(plain.URL, "http", "https", 1)}, "", handshake},
		{"nobody there", []string{nobody}, "", connect},
		{"no such name", []string{"nobody.invalid"}, "", resolve},
		{"too slow", []string{"-m", "0.1", plain.URL + "/slow"}, "", timedOut},
		{"cut off", []string{plain.URL + "/cut"}, "", noReply},
		{"no URL", []string{"-s"}, "", usage},
		{"no such option", []string{"--magic", host}, "", usage},
		{"no value", []string{host, "-H"}, "", usage},
		{"another scheme", []string{"ftp://host/"}, "", malformed},
	} {
		var out, errs bytes.Buffer
		code := Run(t.Context(), c.args, &out, &errs)
		if got := strings.ReplaceAll(out.String(), host, "HOST"); got != c.want || code != c.code {
			t.Errorf("%s: %q, status %d (%s), want %q, %d", c.name, got, code, errs.String(), c.want, c.code)
		}
		if (code != 0) != (errs.Len() > 0) {
			t.Errorf("%s: status %d, errors %q", c.name, code, &errs)
		}
	}
	var out, errs bytes.Buffer
	if code := Run(t.Context(), []string{"-sv", plain.URL}, &out, &errs); code != 0 || !strings.Contains(errs.String(), "< HTTP/1.1 200 OK") {
		t.Errorf("verbose: %q", &errs)
	}
	if code := Run(t.Context(), []string{"-s", nobody}, &out, &errs); code != connect || strings.Contains(errs.String(), "curl:") {
		t.Errorf("silent: %d, %q", code, &errs)
	}
}

// Whatever the words, they are understood or refused.
func FuzzParse(f *testing.F) {
	f.Add("-sS -o /dev/null -w %{http_code} -HX:y -m1 http://a")
	f.Fuzz(func(t *testing.T, line string) {
		if o, err := parse(strings.Fields(line)); err == nil && len(o.urls) == 0 {
			t.Error("no URL")
		}
	})
}
