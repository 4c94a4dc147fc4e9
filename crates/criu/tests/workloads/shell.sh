# counts into the volume; a child of its own through a pipe
i=0
while :; do i=$((i+1)); echo $i > /data/count.new && mv /data/count.new /data/count; echo "line $i"; sleep 0.05; done
