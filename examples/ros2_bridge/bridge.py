"""ROS 2 node: masks of rt-avsac as sensor_msgs/Image and vision_msgs/Detection2DArray.

NOT RUN by this project's tests: there is no ROS 2 there. Written for Humble and later, `vision_msgs` 4.

    sudo apt install ros-$ROS_DISTRO-vision-msgs && pip install rt-avsac
    python3 bridge.py --ros-args -p address:=tcp://127.0.0.1:5555 -p frame_id:=camera_optical_frame

Topics: ~/label_image (mono8, at the network's size: 0 = silent, class id where it sounds) and ~/detections (boxes in
pixels of the camera image). Stamps are the capture time of the picture, by the wall clock.
"""

from __future__ import annotations

import threading

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from rt_avsac.client import MaskSubscriber
from rt_avsac.messages import MaskMessage


class Bridge(Node):
    """Publishes each mask message as it comes, from a thread of its own."""

    def __init__(self) -> None:
        super().__init__("rt_avsac_bridge")
        names = ("address", "source", "client_key", "server_public_key", "frame_id")
        values = {name: self.declare_parameter(name, "").value for name in names}
        self.frame_id = values.pop("frame_id") or "camera_optical_frame"
        self.images = self.create_publisher(Image, "~/label_image", qos_profile_sensor_data)
        self.detections = self.create_publisher(Detection2DArray, "~/detections", qos_profile_sensor_data)
        self.masks = MaskSubscriber(values.pop("address") or "tcp://127.0.0.1:5555", preview=False, **values)
        self.thread = threading.Thread(target=self.forward, daemon=True)
        self.thread.start()
        self.create_timer(5.0, self.complain)

    def forward(self) -> None:
        for message in self.masks:
            self.publish(message)

    def complain(self) -> None:
        if self.masks.stale:
            self.get_logger().warning(f"{self.masks.address}: nothing heard; {self.masks.link}")

    def publish(self, message: MaskMessage) -> None:
        seconds, nanoseconds = divmod(message.t.video_ns + message.clock.realtime_offset_ns, 1_000_000_000)
        header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=self.frame_id)
        labels = np.zeros((message.mask.height, message.mask.width), np.uint8)
        found = Detection2DArray(header=header)
        for item in message.objects:
            labels[item.mask] = item.class_id
            found.detections.append(detection(header, item.label, item.score, item.bbox))
        image = Image(header=header, height=labels.shape[0], width=labels.shape[1], encoding="mono8")
        image.step = labels.shape[1]
        image.data = labels.tobytes()
        self.images.publish(image)
        self.detections.publish(found)

    def destroy_node(self) -> None:
        self.masks.close()
        self.thread.join()
        super().destroy_node()


def detection(header: Header, label: str, score: float, bbox: tuple[int, int, int, int]) -> Detection2D:
    """vision_msgs has boxes by centre and size."""
    x, y, width, height = bbox
    made = Detection2D(header=header)
    made.bbox.center.position.x = x + width / 2
    made.bbox.center.position.y = y + height / 2
    made.bbox.size_x, made.bbox.size_y = float(width), float(height)
    guess = ObjectHypothesisWithPose()
    guess.hypothesis.class_id, guess.hypothesis.score = label, float(score)
    made.results.append(guess)
    return made


def main() -> None:
    rclpy.init()
    node = Bridge()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
