# nginx.sh PORT: a web server and downloads that take their time, until the file $VICTIM_GO is there: by sendfile(2), by
# threads, past the page cache, through a connection of the server to itself; over TCP and over a unix socket. Each must bring what
# was sent, byte by byte, and none is tried twice.
set -euo pipefail
port=$1
if [[ $(id -u) == 0 ]]; then
    chmod 711 . # the workers, which are not root's, pass through here
fi
mkdir files temporary
head -c 12M /dev/urandom > files/large
sha256sum < files/large > wanted
{
    if [[ $(id -u) == 0 ]]; then
        echo 'user nobody nogroup;'
    fi
    cat << CONFIGURATION
daemon off;
worker_processes 2;
pid nginx.pid;
error_log stderr error;
events { worker_connections 64; }
http {
    access_log access.log;
    root $PWD/files;
    client_body_temp_path temporary/body;
    proxy_temp_path temporary/proxy;
    fastcgi_temp_path temporary/fastcgi;
    uwsgi_temp_path temporary/uwsgi;
    scgi_temp_path temporary/scgi;
    limit_conn_zone \$server_name zone=connections:1m;
    limit_conn connections 60;
    upstream itself { server 127.0.0.1:$port; keepalive 4; }
    server {
        listen 127.0.0.1:$port reuseport;
        listen unix:$PWD/nginx.sock;
        location /sent/ { alias $PWD/files/; sendfile on; tcp_nopush on; }
        location /direct/ { alias $PWD/files/; sendfile off; aio threads; directio 4k; output_buffers 2 128k; }
        location /threads/ { alias $PWD/files/; sendfile off; aio threads; }
        location /passed/ { proxy_pass http://itself/sent/; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
CONFIGURATION
} > nginx.conf
nginx -p "$PWD" -c nginx.conf &
server=$!
until curl --silent --fail --range 0-0 --output /dev/null "http://127.0.0.1:$port/sent/large"; do
    kill -0 $server
    sleep 0.1
done

download() {
    until [[ -e $VICTIM_GO ]]; do
        curl --silent --show-error --fail --limit-rate 3M "$@" --output - | sha256sum | cmp - wanted
        echo TRAFFIC
    done
}
clients=()
for kind in sent direct threads passed; do
    download "http://127.0.0.1:$port/$kind/large" &
    clients+=($!)
    download --unix-socket nginx.sock "http://localhost/$kind/large" &
    clients+=($!)
done
for client in "${clients[@]}"; do
    wait "$client"
done
kill -QUIT $server
wait $server
if grep -v '" \(200\|206\) ' access.log; then
    exit 1
fi
echo 'the downloads are right'
echo FINAL
