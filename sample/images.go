package sample

import (
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
)

// Binary is the program that holds the samples; ByImage's command lines begin
// with it.
const Binary = "weir-sample"

// image is one image that a sample stands for.
type image struct {
	// Name is the end of the repository: one or more whole path elements.
	Name string

	// Programs are the image's own executables: a command that starts with one of
	// these means the sample, any other is a program of the machine.
	Programs []string

	// Argv is what to run in place of the image's own executable with args.
	Argv func(args []string) []string
}

// images lists the images of Istio's samples, under every name they have had.
func images() []image {
	node, ruby := []string{"node"}, []string{"ruby"}
	java := []string{"server", "docker-server", "java"}
	python := []string{"python", "python3", "flask", "gunicorn", "opentelemetry-instrument"}
	bookinfo := func(service, version string, programs []string) image {
		return image{"examples-bookinfo-" + service + "-" + version, programs, always("bookinfo-"+service, "--version", version)}
	}
	return []image{
		{"examples-bookinfo-productpage-v1", python, always("bookinfo-productpage")},
		bookinfo("details", "v1", ruby),
		bookinfo("details", "v2", ruby),
		bookinfo("reviews", "v1", java),
		bookinfo("reviews", "v2", java),
		bookinfo("reviews", "v3", java),
		bookinfo("ratings", "v1", node),
		bookinfo("ratings", "v2", node),
		bookinfo("ratings", "v-faulty", node),
		bookinfo("ratings", "v-delayed", node),
		bookinfo("ratings", "v-unavailable", node),
		bookinfo("ratings", "v-unhealthy", node),
		{"examples-helloworld-v1", python, always("helloworld", "--version", "v1")},
		{"examples-helloworld-v2", python, always("helloworld", "--version", "v2")},
		{"tcp-echo-server", []string{"tcp-echo"}, tcpEchoArgs},
		{"mccutchen/go-httpbin", []string{"go-httpbin"}, httpbinOn("8080")},
		{"kong/httpbin", []string{"gunicorn", "pipenv"}, httpbinOn("80")},
		{"kennethreitz/httpbin", []string{"gunicorn", "pipenv"}, httpbinOn("80")},
		{"citizenstig/httpbin", []string{"gunicorn"}, httpbinOn("8000")},
		{"curlimages/curl", nil, curl},
		{"curl/curl", nil, curl},
		{"pstauffer/curl", nil, curl},
		{"tutum/curl", nil, curl},
		{"governmentpaas/curl-ssl", nil, curl},
		{Binary, []string{Binary}, func(args []string) []string { return append([]string{Binary}, args...) }},
	}
}

// ByImage returns what to run in place of a container: its image as written
// (any registry, tag and digest), its command and its args, combined as
// Kubernetes does: command replaces the image's program, args its arguments.
//
// argv[0] is Binary for a built-in sample, otherwise a program of this machine,
// which only a command can name. ok is false if neither stands for the image;
// such a container must be run by other means.
func ByImage(ref string, command, args []string) (argv []string, ok bool) {
	i, ok := find(ref)
	switch {
	case !ok:
		return nil, false
	case len(command) == 0:
		return i.Argv(args), true
	case slices.Contains(i.Programs, path.Base(command[0])):
		return i.Argv(slices.Concat(command[1:], args)), true
	}
	return slices.Concat(command, args), true
}

// Images returns the ends of the repositories that samples stand for.
func Images() []string {
	var out []string
	for _, i := range images() {
		out = append(out, i.Name)
	}
	return out
}

// Image returns which of Images an image reference names.
func Image(ref string) (name string, ok bool) {
	i, ok := find(ref)
	return i.Name, ok
}

func find(ref string) (image, bool) {
	name := repository(ref)
	for _, i := range images() {
		if name == i.Name || strings.HasSuffix(name, "/"+i.Name) {
			return i, true
		}
	}
	return image{}, false
}

// OtherNames are the files under which an image of the samples has Binary, too: the
// programs of the originals that manifests and people call by name.
func OtherNames() []string {
	return []string{"/bin/sleep", "/usr/bin/curl", "/bin/go-httpbin", "/bin/tcp-echo", "/usr/bin/gunicorn"}
}

// Argv returns the arguments of Binary for a command line whose program is a link to
// it, or that begins with "as IMAGE" and means that image's own program. The word curl
// before them is package curl's.
func Argv(argv []string) ([]string, error) {
	if len(argv) == 0 {
		return nil, nil
	}
	stands := func(ref string, args []string) ([]string, error) {
		argv, ok := ByImage(ref, nil, args)
		if !ok {
			return nil, fmt.Errorf("no sample stands for the image %q", ref)
		}
		if argv[0] == Binary {
			argv = argv[1:]
		}
		return argv, nil
	}
	switch name, args := path.Base(argv[0]), argv[1:]; name {
	case "sleep":
		if len(args) == 0 {
			return []string{"sleep"}, nil
		}
		return append([]string{"sleep", "--for"}, args...), nil
	case "curl":
		return append([]string{"curl"}, args...), nil
	case "go-httpbin":
		return stands("mccutchen/go-httpbin", args)
	case "tcp-echo":
		return stands("tcp-echo-server", args)
	case "gunicorn":
		return stands("kong/httpbin", args)
	}
	if args := argv[1:]; len(args) >= 2 && args[0] == "as" {
		return stands(args[1], args[2:])
	}
	return argv[1:], nil
}

// repository strips the tag and the digest of an image reference.
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if colon := strings.LastIndexByte(ref, ':'); colon > strings.LastIndexByte(ref, '/') {
		ref = ref[:colon] // and not the port of a registry
	}
	return strings.TrimSpace(ref)
}

// always returns the same sample whatever the arguments.
func always(argv ...string) func([]string) []string {
	return func([]string) []string { return append([]string{Binary}, argv...) }
}

// tcpEchoArgs reads "PORT,PORT,… PREFIX".
func tcpEchoArgs(args []string) []string {
	argv := []string{Binary, "tcp-echo"}
	for i, flag := range []string{"--port", "--prefix"} {
		if i < len(args) {
			argv = append(argv, flag, args[i])
		}
	}
	return argv
}

// curl is an image whose arguments are a command, or flags and URLs of curl.
func curl(args []string) []string {
	if len(args) == 0 || path.Base(args[0]) == "sleep" {
		return []string{Binary, "sleep"}
	}
	if path.Base(args[0]) == "curl" {
		return args
	}
	return append([]string{"curl"}, args...)
}

// httpbinOn finds the port in the flags of go-httpbin (-port 80) and gunicorn
// (-b 0.0.0.0:80, --bind=[::]:80); port is the image's default.
func httpbinOn(port string) func([]string) []string {
	return func(args []string) []string {
		port := port
		for i, arg := range args {
			name, value, inline := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			if !strings.HasPrefix(arg, "-") {
				continue
			}
			if !inline && i+1 < len(args) {
				value = args[i+1]
			}
			switch name {
			case "b", "bind":
				if _, p, err := net.SplitHostPort(value); err == nil {
					port = p
				}
			case "port":
				port = value
			}
		}
		return []string{Binary, "httpbin", "--port", port}
	}
}
